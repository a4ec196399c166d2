"""A gateway running in the test's own event loop behind real HTTP, and a client for it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn

from common.http_server import ConnectionLimits, ServerConfig
from gateway.app import create_app
from gateway.settings import GatewaySettings


@asynccontextmanager
async def running_gateway(engine_url: str | None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway on a free port; the client's base URL is its own. Without `engine_url`, `settings` have `engines`."""
    chosen = {"key_secret": "5e" * 32, "redis_timeout_ms": 1000, **settings}
    if engine_url is not None:
        chosen["engine_url"] = engine_url
    given = GatewaySettings(**chosen)
    limits = ConnectionLimits(given.max_connections, given.send_timeout_s)
    config = ServerConfig(create_app(given), limits, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=120) as client:
                while not server.started:
                    assert not task.done(), "the gateway did not start"
                    await asyncio.sleep(0.01)
                yield client
        finally:
            server.should_exit = True
            await task


async def until_ready(client: httpx.AsyncClient, status: int = 200) -> None:
    """Wait until `/ready` answers this status."""
    async with asyncio.timeout(60):
        while (await client.get("/ready")).status_code != status:
            await asyncio.sleep(0.02)
