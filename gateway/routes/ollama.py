"""Ollama's routes, for clients that speak nothing else: `/api/embed`, `/api/embeddings` and what they ask of a server.

Errors have its shape, `{"error": "message"}`, because its clients show what stands there as it is. Models are always
loaded, so `keep_alive` and `options` change nothing.
"""

import time
from functools import partial
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Request
from pydantic import PlainValidator, WithJsonSchema

from engine.protocol import EngineInfo
from gateway.errors import GatewayError
from gateway.http import Exchange, Reply
from gateway.models import ServedModel
from gateway.names import hub_id
from gateway.routes.embedding_call import EmbeddingCalls
from gateway.routes.fields import check_fields
from gateway.routes.schemas import Body, TokenIds, VectorsBody, array_reply, parse, parse_inputs

PREFIX: Final = "/api/"
EPOCH: Final = "1970-01-01T00:00:00Z"
NEVER: Final = "9999-12-31T23:59:59Z"

router = APIRouter(prefix="/api", tags=["Ollama"])


def _texts_or_none(value: Any) -> list[str] | TokenIds | str | None:
    return None if value is None or value in ("", []) else parse_inputs(value)


_INPUT_SCHEMA: Final = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}


class OllamaEmbedBody(VectorsBody):
    """Body of `POST /api/embed`. No input, or an empty one, asks for no vectors: it is how a model is loaded."""

    input: Annotated[Any, PlainValidator(_texts_or_none), WithJsonSchema(_INPUT_SCHEMA)] = None


class OllamaPromptBody(VectorsBody):
    """Body of `POST /api/embeddings`, its older route: one text."""

    prompt: str = ""


class ShowBody(Body):
    """Body of `POST /api/show`; `name` is an older word for `model`."""

    model: str | None = None
    name: str | None = None


def error_body(error: GatewayError) -> bytes:
    """An error in Ollama's shape."""
    return orjson.dumps({"error": error.message})


async def embed(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /api/embed`."""
    body = await calls.parsed(exchange, _parse_embed)
    options = calls.options(exchange, body)
    if body.input is None:
        served, _ = calls.models.find(body.model)
        name = body.model or served.model.info.model
        return Reply(orjson.dumps({"model": name, "embeddings": []}))
    answer = await calls.embed(exchange, body.model, body.input, options)
    rest = orjson.dumps(
        {
            "model": body.model or answer.result.model.model,
            "total_duration": int(1e9 * (time.perf_counter() - exchange.started)),
            "load_duration": 0,
            "prompt_eval_count": answer.result.tokens,
        }
    )
    return Reply(b'{"embeddings":' + array_reply(answer.vectors) + b"," + rest[1:], answer.headers)


async def embeddings(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /api/embeddings`."""
    body = await calls.parsed(exchange, partial(parse, shape=OllamaPromptBody))
    options = calls.options(exchange, body)
    if not body.prompt:
        calls.models.find(body.model)
        return Reply(b'{"embedding":[]}')
    answer = await calls.embed(exchange, body.model, body.prompt, options, "prompt")
    return Reply(b'{"embedding":' + answer.vectors[0] + b"}", answer.headers)


async def show(calls: EmbeddingCalls, exchange: Exchange) -> Reply:
    """`POST /api/show`: what the model is."""
    body = await calls.parsed(exchange, partial(parse, shape=ShowBody))
    check_fields(body.model_extra, calls.settings.strict_fields)
    info = calls.models.named(body.model or body.name).model.info
    content = {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(info),
        "model_info": {
            "general.architecture": "embedding",
            "general.basename": hub_id(info),
            "embedding.embedding_length": info.dimensions,
            "embedding.context_length": info.max_tokens,
        },
        "capabilities": ["embedding"],
        "modified_at": EPOCH,
    }
    return Reply(orjson.dumps(content))


@router.get("/tags", summary="The models and their other names (Ollama)")
async def tags(request: Request) -> dict[str, object]:
    """Ollama's model list."""
    calls: EmbeddingCalls = request.app.state.calls
    return {"models": [one for served in calls.models.reached() for one in _shown(served)]}


@router.get("/ps", summary="The models that are loaded (Ollama)")
async def loaded(request: Request) -> dict[str, object]:
    """Ollama's list of models in memory: those whose engines are ready, each by its own name."""
    calls: EmbeddingCalls = request.app.state.calls
    ready = [served for served in calls.models if served.engine.is_ready]
    return {"models": [_shown(served)[0] | {"expires_at": NEVER, "size_vram": 0} for served in ready]}


@router.get("/version", summary="This gateway's version (Ollama)")
async def version(request: Request) -> dict[str, str]:
    """A version, where Ollama has its own."""
    return {"version": request.app.version}


def _parse_embed(body: bytes) -> OllamaEmbedBody:
    return parse(body, OllamaEmbedBody)


def _shown(served: ServedModel) -> list[dict[str, Any]]:
    info = served.model.info
    names = [name if ":" in name else f"{name}:latest" for name in served.names.known(info)]
    return [
        {
            "name": name,
            "model": name,
            "modified_at": EPOCH,
            "size": 0,
            "digest": info.fingerprint,
            "details": _details(info),
        }
        for name in names
    ]


def _details(info: EngineInfo) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "onnx",
        "family": "embedding",
        "families": ["embedding"],
        "parameter_size": "",
        "quantization_level": info.kernel_class,
    }
