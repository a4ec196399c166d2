"""What the console says of each engine: asked over TLS by its name, and set right by what calls showed."""

import asyncio
import ssl
from pathlib import Path

import aiohttp
from aiohttp import web

from gateway.console import engines
from gateway.engines.engine_set import EngineSet
from tests.stand_in_engine import StandInEngine
from tests.tls_front import make_certificates, tls_front


async def resolved(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_an_engine_is_asked_by_the_name_of_its_certificate(tmp_path: Path) -> None:
    """Behind `dns+https` each address has a certificate for the name alone; the engine is ready, not away."""
    certificates = make_certificates(tmp_path, "subjectAltName=DNS:engines.test")
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=certificates.ca))
    async with (
        StandInEngine().running() as engine,
        tls_front(int(engine.url.rsplit(":", 1)[1]), certificates, ssl.CERT_NONE) as port,
        aiohttp.ClientSession(connector=trusting) as http,
    ):
        served = EngineSet(f"dns+https://engines.test:{port}", http, lookup=resolved)
        await served.refresh()
        [report] = await engines.reports(http, served)
    assert (report["state"], report["reason"]) == ("ready", "")
    assert report["url"] == f"https://127.0.0.1:{port}"


async def test_an_engine_that_serves_is_not_away() -> None:
    """It answers calls and is too busy to report: ready, with a word about the figures that are missing."""
    engine = StandInEngine()
    async with engine.running() as running, aiohttp.ClientSession() as http:
        served = EngineSet(running.url, http)
        await served.refresh()
        await served.connections[0].look()
        [report] = await engines.reports(FailingSession(), served)  # type: ignore[arg-type]
        assert report["state"] == "ready"
        assert "did not report" in str(report["reason"])
        served.connections[0].away("it is shutting down")
        [report] = await engines.reports(FailingSession(), served)  # type: ignore[arg-type]
        assert report["state"] == "away"


class FailingSession:
    """A session whose requests all find nobody."""

    def get(self, *_: object, **__: object) -> None:
        raise aiohttp.ClientConnectionError


async def test_a_report_in_several_parts_is_read_whole() -> None:
    """Metrics that arrive in pieces are not cut off after the first."""
    lines = "".join(f'embedding_batch_queue_size{{model="{n}"}} 1\n' for n in range(2000))

    async def slowly(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for begin in range(0, len(lines), 20_000):
            await answer.write(lines[begin : begin + 20_000].encode())
            await asyncio.sleep(0.01)
        return answer

    app = web.Application()
    app.router.add_get("/metrics", slowly)
    app.router.add_get("/ready", slowly)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as http:
            served = EngineSet(f"http://127.0.0.1:{runner.addresses[0][1]}", http)
            [report] = await engines.reports(http, served)
            assert report["queued_texts"] == 2000
    finally:
        await runner.cleanup()
