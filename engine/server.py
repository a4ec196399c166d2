"""HTTP around the engine: which route answers what, and the process's life from start to drained.

`POST /vectors` goes past the framework, since there every tenth of a millisecond counts; the rest is
Starlette.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from common import logs, request_ids, tracing
from common.http_server import ConnectionLimits, ServerConfig
from common.traced_app import traced
from engine.metrics import CONTENT_TYPE as METRICS_TYPE
from engine.protocol import (
    ALL_RUNS_RATE_HEADER,
    FINGERPRINT_HEADER,
    INFO_PATH,
    QUEUE_HEADER,
    RATE_HEADER,
    STATIC_EMBEDDING_PATH,
    TOKENIZER_PATH,
    VECTORS_PATH,
    error_body,
)
from engine.serving import Engine, build_engine
from engine.settings import EngineSettings
from engine.vectors import VectorsEndpoint

logger = logging.getLogger(__name__)

JSON_TYPE = "application/json"
STALLED_SEND_S = 30.0  # a gateway that reads nothing of its vectors for so long is gone


class EngineApp:
    """The ASGI application of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._vectors = traced(VectorsEndpoint(engine), VECTORS_PATH)
        self._rest = _routes(engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "http" and scope["path"] == VECTORS_PATH:
            given = next((value for name, value in scope["headers"] if name == request_ids.HEADER_NAME), None)
            request_ids.current.set(request_ids.accepted(given))
            await self._vectors(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


def create_app(settings: EngineSettings) -> EngineApp:
    """Open the configured bundle and put HTTP around it. Raises BundleError and ConfigurationError."""
    return EngineApp(build_engine(settings))


def run(settings: EngineSettings) -> None:
    """Serve until a signal ends it, then drain. Raises BundleError and ConfigurationError before it listens."""
    logs.configure(settings.log_level, settings.log_format)
    tracing.configure("dejavec-engine")
    app = create_app(settings)
    logger.info("address=http://%s:%d", settings.engine_host, settings.engine_port)
    signal.signal(signal.SIGTERM, _exit_cleanly)
    gc.freeze()  # what the start left lives as long as the process; no need to scan it again and again
    with contextlib.suppress(KeyboardInterrupt):
        DrainingServer(app, server_config(app, settings)).run()


def _exit_cleanly(_: int, __: object) -> None:
    """uvicorn repeats the signal that ended it once it has drained; by then 0 is right."""
    sys.exit(0)


def server_config(app: EngineApp, settings: EngineSettings) -> ServerConfig:
    """uvicorn as the engine runs it: fast loop, limited connections, time to drain."""
    return ServerConfig(
        app,
        ConnectionLimits(settings.engine_max_connections, STALLED_SEND_S),
        host=settings.engine_host,
        port=settings.engine_port,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        lifespan="on",
        date_header=False,
        timeout_graceful_shutdown=int(settings.engine_drain_s) + 2,  # the drain's own end comes first
    )


class DrainingServer(uvicorn.Server):
    """uvicorn stops accepting and waits for open requests, while the engine finishes what it has."""

    def __init__(self, app: EngineApp, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._engine = app.engine

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Drain the queue while uvicorn closes its connections."""
        draining = asyncio.create_task(self._engine.drain(), name="drain")
        await super().shutdown(sockets)  # type: ignore[arg-type]
        await draining


def _routes(engine: Engine) -> Starlette:
    """Everything but the vectors."""
    fingerprint = {FINGERPRINT_HEADER: engine.info.fingerprint}

    async def info(_: Request) -> Response:
        return Response(engine.info.to_json(), media_type=JSON_TYPE, headers=fingerprint)

    async def tokenizer(_: Request) -> Response:
        return Response(engine.model.tokenizer_json, media_type=JSON_TYPE, headers=fingerprint)

    async def static_embedding(_: Request) -> Response:
        if not engine.model.static_embedding:
            return _error(404, "this bundle has no static embedding; build it again to get one", "not_found")
        content = engine.model.static_embedding
        return Response(content, media_type="application/octet-stream", headers=fingerprint)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_: Request) -> Response:
        fault = engine.heartbeat.fault()
        if fault is not None:
            return _error(503, fault, "not_ready")
        batcher = engine.batcher
        load = {
            RATE_HEADER: f"{batcher.run_tokens_per_s:.0f}",
            ALL_RUNS_RATE_HEADER: f"{batcher.tokens_per_s:.0f}",
            QUEUE_HEADER: str(batcher.queued_tokens),
        }
        return JSONResponse({"status": "ready", "queued_tokens": batcher.queued_tokens}, headers=fingerprint | load)

    async def metrics(_: Request) -> Response:
        return Response(engine.metrics.render(), headers={"content-type": METRICS_TYPE})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with engine.opened():
            yield
        await tracing.aclose()

    routes = [
        Route(INFO_PATH, info),
        Route(TOKENIZER_PATH, tokenizer),
        Route(STATIC_EMBEDDING_PATH, static_embedding),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error, 500: _crash})


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return _error(error.status_code, error.detail, kind, error.headers)


async def _crash(_: Request, __: Exception) -> Response:
    return _error(500, "the engine failed in an unforeseen way", "internal_error")


def _error(status: int, message: str, kind: str, headers: object = None) -> Response:
    return Response(error_body(message, kind), status, media_type=JSON_TYPE, headers=headers)  # type: ignore[arg-type]
