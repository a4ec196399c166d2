"""OpenAI's routes: `POST /v1/embeddings`, through `EmbeddingCalls`, and the model list."""

from functools import partial

from fastapi import APIRouter, Request

from gateway.errors import ModelNotFound
from gateway.http import Exchange, Reply
from gateway.routes.embedding_call import (
    BASE64_NUMBER_BYTES,
    INLINE_BODY_BYTES,
    JSON_NUMBER_BYTES,
    EmbeddingCalls,
    result_headers,
)
from gateway.routes.schemas import EmbeddingsBody, embeddings_reply, parse

router = APIRouter(tags=["OpenAI"])


async def embeddings(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /v1/embeddings`."""
    if len(exchange.body) <= INLINE_BODY_BYTES:
        body = parse(exchange.body, EmbeddingsBody)
    else:
        body = await calls.parsed(exchange, partial(parse, shape=EmbeddingsBody))
    info = calls.engine.model.info
    prompt = calls.names.prompt_of(body.model, body.prompt_name, info)
    is_base64 = body.encoding_format == "base64"
    number_bytes = BASE64_NUMBER_BYTES if is_base64 else JSON_NUMBER_BYTES
    result, vectors = await calls.run(exchange, body.input, prompt, body.dimensions, number_bytes=number_bytes)
    content = embeddings_reply(vectors, is_base64, result.model.model, result.tokens)
    return Reply(content, result_headers(result))


@router.get("/v1/models", summary="The model and its other names")
async def models(request: Request) -> dict[str, object]:
    """OpenAI's model list."""
    calls: EmbeddingCalls = request.app.state.calls
    known = calls.names.known(calls.engine.model.info)
    return {"object": "list", "data": [_model(name) for name in known]}


@router.get("/v1/models/{name:path}", summary="One model")
async def model(request: Request, name: str) -> dict[str, object]:
    """One entry of the model list."""
    calls: EmbeddingCalls = request.app.state.calls
    known = calls.names.known(calls.engine.model.info)
    if name not in known:
        raise ModelNotFound(f"the model `{name[:200]}` does not exist here; known: {', '.join(known)}", param="model")
    return _model(name)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dejavec"}
