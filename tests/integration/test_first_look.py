"""When an engine counts as away: not before a worker has asked it, and not for one late reply of a busy machine."""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from engine import protocol
from gateway import app as gateway_app
from gateway.engines import connection
from gateway.engines.addresses import Address
from gateway.engines.connection import EngineConnection
from tests.free_ports import free_port
from tests.gateway_client import running_gateway
from tests.stand_in_engine import StandInEngine, static_embedding_bytes


async def test_a_worker_accepts_requests_once_it_has_asked_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers late delays a worker's start; the first request after it is answered."""
    monkeypatch.setattr(connection, "WATCH_TIMEOUT_S", 120.0)
    monkeypatch.setattr(gateway_app, "FIRST_LOOK_S", 120.0)
    engine = StandInEngine(frozen=True)
    async with engine.running(), AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(running_gateway(engine.url)))
        async with asyncio.timeout(120):
            while not engine.asked:
                await asyncio.sleep(0.01)
        assert not starting.done()
        engine.frozen = False
        client = await starting
        answer = await client.post("/v1/embeddings", json={"model": "tiny", "input": "a b"})
        assert answer.status_code == 200, answer.text


async def test_a_worker_starts_without_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there refuses the connection; a silent one is waited for, but not for long."""
    async with running_gateway(f"http://127.0.0.1:{free_port()}") as client:
        assert (await client.get("/ready")).status_code == 503
    gone = StandInEngine(frozen=True)
    monkeypatch.setattr(gateway_app, "FIRST_LOOK_S", 0.05)
    async with gone.running(), running_gateway(gone.url) as client:
        assert (await client.get("/ready")).status_code == 503


async def test_a_late_reply_is_not_yet_an_engine_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One late look leaves a ready engine ready, the second in a row does not; an answer between them starts afresh."""
    engine = StandInEngine()
    async with engine.running(), aiohttp.ClientSession() as http:
        one = EngineConnection(Address(engine.url), http)
        await one.look()
        for _ in range(2):
            monkeypatch.setattr(connection, "WATCH_TIMEOUT_S", 0.05)
            engine.frozen = True
            await one.look()
            assert one.is_ready
            monkeypatch.setattr(connection, "SECOND_LOOK_S", 120.0)
            engine.frozen = False
            await one.look()
            assert one.is_ready
        monkeypatch.setattr(connection, "WATCH_TIMEOUT_S", 0.05)
        monkeypatch.setattr(connection, "SECOND_LOOK_S", 0.05)
        engine.frozen = True
        await one.look()
        await one.look()
        assert not one.is_ready
        assert one.reason == "it does not answer in time"


async def test_an_engine_never_seen_tells_at_its_first_look_that_it_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not ready before, so there is nothing to keep."""
    monkeypatch.setattr(connection, "WATCH_TIMEOUT_S", 0.05)
    engine = StandInEngine(frozen=True)
    async with engine.running(), aiohttp.ClientSession() as http:
        one = EngineConnection(Address(engine.url), http)
        await one.look()
        assert one.reason == "it does not answer in time"


class SlowlySending(StandInEngine):
    """Sends its static embedding in pieces, over a second and a half."""

    pieces = 5

    async def state(self, request: web.Request) -> web.StreamResponse:
        if request.path != protocol.STATIC_EMBEDDING_PATH:
            return await super().state(request)
        content = static_embedding_bytes()
        answer = web.StreamResponse()
        answer.content_length = len(content)
        await answer.prepare(request)
        size = len(content) // (self.pieces - 1)
        for start in range(0, len(content), size):
            await answer.write(content[start : start + size])
            await asyncio.sleep(0.3)
        return answer


async def test_a_large_file_may_take_long_while_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A static embedding over a slow network takes longer than a look: the model is there all the same."""
    monkeypatch.setattr(connection, "WATCH_TIMEOUT_S", 1.0)
    engine = SlowlySending(has_static_embedding=True)
    async with engine.running(), aiohttp.ClientSession() as http:
        one = EngineConnection(Address(engine.url), http)
        assert await one.static_embedding(engine.info) == static_embedding_bytes()
