"""What the gateway is measured against: the same server software with next to nothing in it.

    echo          bare ASGI: read the body, send one prepared answer
    route         FastAPI: raw body, orjson, one vector as base64, the gateway's answer shape
    route_get     the same with one awaited redis-py GET, which fetches the vector

Run by uvicorn with uvloop and httptools, as the gateway is. `route_get` finds its Redis in BARE_REDIS_URL.
"""

import base64
import hashlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

DIMENSIONS = 384
REDIS_VARIABLE = "BARE_REDIS_URL"
KEY_PREFIX = b"bare:"
JSON = "application/json"

Message = MutableMapping[str, Any]

_VECTOR = np.random.default_rng(0).standard_normal(DIMENSIONS, dtype=np.float32).tobytes()


def answer(vector: bytes, model: str) -> bytes:
    """The body of `POST /v1/embeddings` for one text."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": base64.b64encode(vector).decode()}],
            "model": model,
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
    )


def key_of(text: str) -> bytes:
    """Where a text's vector lies in Redis."""
    return KEY_PREFIX + hashlib.blake2b(text.encode(), digest_size=16).hexdigest().encode()


_BODY = answer(_VECTOR, "echo")
_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", JSON.encode()), (b"content-length", str(len(_BODY)).encode())],
}


async def echo(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer every request with the same vector."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    await send(_HEAD)
    await send({"type": "http.response.body", "body": _BODY})


route = FastAPI(openapi_url=None)


@route.get("/health")
async def route_health() -> dict[str, str]:
    """Alive."""
    return {"status": "ok"}


@route.post("/v1/embeddings")
async def route_embeddings(request: Request) -> Response:
    """One vector, always the same."""
    payload = orjson.loads(await request.body())
    return Response(answer(_VECTOR, payload["model"]), media_type=JSON)


route_get = FastAPI(openapi_url=None)
_redis = Redis.from_url(os.environ.get(REDIS_VARIABLE, "redis://127.0.0.1:6379/0"))  # connects at first use


@route_get.get("/health")
async def route_get_health() -> dict[str, str]:
    """Alive, Redis too."""
    await _redis.ping()
    return {"status": "ok"}


@route_get.post("/v1/embeddings")
async def route_get_embeddings(request: Request) -> Response:
    """The vector that Redis holds for the text; 404 when it holds none."""
    payload = orjson.loads(await request.body())
    vector = await _redis.get(key_of(payload["input"]))
    if not isinstance(vector, bytes):
        return Response(b"{}", status_code=404, media_type=JSON)
    return Response(answer(vector, payload["model"]), media_type=JSON)
