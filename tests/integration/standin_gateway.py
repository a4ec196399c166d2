"""A small real HTTP server that answers like a gateway, and misbehaves on request. For the client's tests.

Its vectors are a function of the text alone, so any two runs can be compared byte for byte.
"""

import asyncio
import base64
import hashlib
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

import numpy as np
import orjson
from aiohttp import web

Misdeed = Callable[[web.Request], Awaitable[web.StreamResponse]]


def vector_of(text: str, dimensions: int) -> np.ndarray:
    """float32[dimensions], unit length, from the text's hash."""
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


def envelope(message: str, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": "stand_in", "param": param, "code": None}})


def status(code: int, retry_after: str | None = None, param: str | None = None) -> Misdeed:
    """Answer with an error status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"Retry-After": retry_after} if retry_after is not None else {}
        return web.Response(status=code, body=envelope("as told", param), headers=headers)

    return answer


async def reset_mid_body(request: web.Request) -> web.StreamResponse:
    """Promise a thousand bytes, send a few, and cut the connection with a TCP reset."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    sock = request.transport.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: close means reset
    request.transport.abort()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def garbage(request: web.Request) -> web.StreamResponse:
    """A page from something that is no gateway, with status 200."""
    return web.Response(text="<html>It works!</html>", content_type="text/html")


class StandIn:
    """A gateway of one model; `misdeeds` are done first, one a request, then everything is answered properly."""

    def __init__(self, fingerprint: str | None = "f1", dimensions: int = 8, port: int = 0) -> None:
        self.fingerprint = fingerprint
        self.dimensions = dimensions
        self.misdeeds: deque[Misdeed | None] = deque()  # None: behave
        self.refused_texts: set[str] = set()
        self.engine_away = False
        self.vectors_short_by = 0
        self.hang_after: int | None = None  # requests from then on are not answered before `released`
        self.hanging = asyncio.Event()
        self.released = asyncio.Event()
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.infos = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/info", self._info)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _info(self, request: web.Request) -> web.Response:
        self.infos += 1
        if self.engine_away:
            return web.Response(body=orjson.dumps({"fingerprint": None, "engine": "no engine answers"}))
        info = {"model": "stand-in", "fingerprint": self.fingerprint, "dimensions": self.dimensions, "max_tokens": 99}
        return web.Response(body=orjson.dumps(info))

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        payload = orjson.loads(await request.read())
        self.requests.append(payload)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.hang_after is not None and len(self.requests) > self.hang_after:
                self.hanging.set()
                await self.released.wait()
            misdeed = self.misdeeds.popleft() if self.misdeeds else None
            if misdeed is not None:
                return await misdeed(request)
            return self._answer(payload)
        finally:
            self.in_flight -= 1

    def _answer(self, payload: dict) -> web.Response:
        texts = payload["input"]
        if "model" not in payload:
            return web.Response(status=400, body=envelope("you must provide `model`", "model"))
        if self.refused_texts & set(texts):
            return web.Response(status=400, body=envelope("this text is not welcome", "input"))
        dimensions = payload.get("dimensions", self.dimensions)
        data = [
            {"index": i, "embedding": base64.b64encode(vector_of(text, dimensions).tobytes()).decode()}
            for i, text in enumerate(texts)
        ]
        body = {
            "data": data[: len(data) - self.vectors_short_by],
            "model": "stand-in",
            "usage": {"total_tokens": sum(map(len, texts))},
        }
        headers = {"x-cache": "mixed", "x-cache-items": f"exact,miss*{len(texts) - 1}" if len(texts) > 1 else "exact"}
        if self.fingerprint is not None:
            headers["x-dejavec-fingerprint"] = self.fingerprint
        headers["x-request-id"] = f"r{len(self.requests)}"
        return web.Response(body=orjson.dumps(body), headers=headers)
