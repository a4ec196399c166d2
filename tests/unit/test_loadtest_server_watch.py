"""Metrics of servers: rates and means between two scrapes, what is said where one is missing."""

import asyncio
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web

from common.prometheus_text import parse
from engine.settings import EngineSettings
from gateway.settings import GatewaySettings
from loadtest import server_watch
from loadtest.addresses import Ports
from loadtest.exposition import MetricsUnreachable, fetch
from loadtest.options import Options
from loadtest.server_watch import ENGINE, GATEWAY, GENERATOR, SERIES, ServerWatch
from tests.background import in_background


def test_rates_and_means_are_those_between_two_scrapes() -> None:
    """Counters by the second, histograms by what was counted between; a restart or a pause is no figure."""
    gateway, engine = SERIES[GATEWAY], SERIES[ENGINE]
    before = parse(
        "process_cpu_seconds_total 10\ndejavec_engine_batch_rows_sum 100\ndejavec_engine_batch_rows_count 50"
    )
    after = parse("process_cpu_seconds_total 11\ndejavec_engine_batch_rows_sum 160\ndejavec_engine_batch_rows_count 60")
    assert gateway["cpu_cores"](after, before, 2.0) == 0.5
    assert engine["batch_texts"](after, before, 2.0) == 6
    assert engine["batch_texts"](after, after, 2.0) is None
    assert gateway["cpu_cores"](before, after, 2.0) is None
    assert engine["queue_texts"](after, before, 2.0) is None


class Server:
    """Serves a growing counter at /metrics until it is told to fail."""

    def __init__(self) -> None:
        self.count = 0
        self.status = 200

    async def metrics(self, request: web.Request) -> web.Response:
        assert "authorization" not in {name.lower() for name in request.headers}
        self.count += 1
        return web.Response(text=f"process_cpu_seconds_total {self.count}\n", status=self.status)


class Running:
    """The server on a port of its own, as a context."""

    def __init__(self, server: Server) -> None:
        application = web.Application()
        application.router.add_get("/metrics", server.metrics)
        self.runner = web.AppRunner(application)

    async def __aenter__(self) -> str:
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        host, port = self.runner.addresses[0]
        return f"http://{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


async def test_a_run_has_what_was_read_and_says_what_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's series and the generator's own; another server in the engine's place is not taken for one."""
    monkeypatch.setattr(server_watch, "PERIOD_S", 0.01)
    with in_background(Running(Server())) as url:
        async with aiohttp.ClientSession() as session:
            watch = ServerWatch({GATEWAY: url, ENGINE: url}, session)
            task = asyncio.create_task(watch.run())
            while len(watch.at_s) < 3:
                await asyncio.sleep(0.01)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    found = watch.result()
    assert len(found.series[GATEWAY]["cpu_cores"]) == len(found.at_s) >= 3
    assert found.mean(GATEWAY, "cpu_cores") is not None
    assert found.mean(GENERATOR, "cpu_cores") is not None
    assert found.mean(GATEWAY, "queue_ms") is None
    assert found.series[ENGINE] == {}
    assert found.missing == {ENGINE: "what answers there is no engine of dejavec"}


async def test_unreachable_metrics_are_one_error() -> None:
    """Neither a refusal nor a closed port is an exception of aiohttp's."""
    server = Server()
    server.status = 404
    with in_background(Running(server)) as url:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(MetricsUnreachable, match="answers 404"):
                await fetch(session, url)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(MetricsUnreachable, match="does not answer"):
            await fetch(session, url)


@pytest.mark.parametrize(
    ("url", "engine_url", "scrape", "expected"),
    [
        ("http://host:8080", "", True, "http://host:8081"),
        ("http://[::1]:8080", "", True, "http://[::1]:8081"),
        ("http://host:9000", "", True, ""),
        ("https://host:8080", "", True, ""),
        ("http://host:8080", "http://gpu:1", True, "http://gpu:1"),
        ("http://host:8080", "http://gpu:1", False, None),
    ],
)
def test_the_engine_is_guessed_beside_a_gateway_on_its_default_port(
    url: str, engine_url: str, scrape: bool, expected: str | None
) -> None:
    """Elsewhere its address has to be given."""
    assert engine_of(url, engine_url, scrape) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8180", "http://127.0.0.1:8199"),
        ("http://localhost:8180", "http://localhost:8199"),
        ("http://host:8180", ""),
        ("http://127.0.0.1:8180/prefix", ""),
        ("http://127.0.0.1:9000", ""),
    ],
)
def test_the_engine_is_guessed_beside_this_machines_gateway(
    url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the ports of the settings, and only there."""
    monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", "8180")
    monkeypatch.setenv("DEJAVEC_ENGINE_PORT", "8199")
    assert engine_of(url) == expected


def test_the_ports_are_those_of_both_processes() -> None:
    """Gateway and engine have the same defaults."""
    defaults = {name: field.default for name, field in Ports.model_fields.items()}
    assert defaults == {
        "gateway_port": GatewaySettings.model_fields["gateway_port"].default,
        "engine_port": EngineSettings.model_fields["engine_port"].default,
    }


def engine_of(url: str, engine_url: str = "", scrape: bool = True) -> str | None:
    """Where a load test reads the engine's metrics."""
    options = object.__new__(Options)
    options.url, options.engine_url, options.scrape = url, engine_url, scrape
    return options.metrics_urls.get(ENGINE)
