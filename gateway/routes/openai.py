"""OpenAI's routes: `POST /v1/embeddings` and the model list; Azure's are the same behind other paths."""

from functools import partial

from fastapi import APIRouter, Request

from gateway.http import Exchange, Reply
from gateway.routes.embedding_call import INLINE_BODY_BYTES, EmbeddingCalls
from gateway.routes.schemas import EmbeddingsBody, embeddings_reply, parse

router = APIRouter(tags=["OpenAI"])


async def embeddings(calls: EmbeddingCalls, exchange: Exchange, deployment: str | None = None) -> Reply:
    """`POST /v1/embeddings`; a `deployment` of the path, as Azure has it, stands in place of the body's model."""
    request = calls.kept.request_of(exchange, deployment)
    if request is not None and (reply := await calls.kept.find(request, exchange)) is not None:
        return reply
    if len(exchange.body) <= INLINE_BODY_BYTES:
        body = parse(exchange.body, EmbeddingsBody)
    else:
        body = await calls.parsed(exchange, partial(parse, shape=EmbeddingsBody))
    model = deployment or body.model
    answer = await calls.embed(exchange, model, body.input, calls.options(exchange, body))
    result = answer.result
    reply = Reply(embeddings_reply(answer.vectors, result.model.model, result.tokens), answer.headers)
    if request is not None and not body.model_extra:  # unknown fields are counted by name each time
        calls.kept.keep(request, model, result, reply)
    return reply


@router.get("/v1/models", summary="The models and their other names")
async def models(request: Request) -> dict[str, object]:
    """OpenAI's model list."""
    calls: EmbeddingCalls = request.app.state.calls
    return {"object": "list", "data": [_model(name) for name in calls.models.known()]}


@router.get("/v1/models/{name:path}", summary="One model")
async def model(request: Request, name: str) -> dict[str, object]:
    """One model, by any name that a request for vectors may have."""
    calls: EmbeddingCalls = request.app.state.calls
    calls.models.find(name)
    return _model(name)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dejavec"}
