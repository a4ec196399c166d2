"""The gateway's command with real worker processes: what a full disk does to it, and what clients are shown."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from common.logs import KeyValueFormatter
from gateway.metrics_storage import MEMORY, PREFIX
from tests.free_ports import free_port
from tests.gateway_client import running_gateway, until_ready
from tests.small_disk import fill
from tests.stand_in_engine import StandInEngine

ROOT = Path(__file__).parents[2]
CREDENTIAL = "hunter2"
OPEN_ROUTES = (
    "/ready",
    "/info",
    "/v1/models",
    "/v1/models/x",
    "/health",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/none",
)


class Gateway:
    """A process of `dejavec gateway` with two workers; its engine is nowhere."""

    def __init__(self, folder: Path, stderr: Path, **variables: str) -> None:
        self.port = free_port()
        own = {
            "DEJAVEC_GATEWAY_PORT": str(self.port),
            "DEJAVEC_GATEWAY_WORKERS": "2",
            "DEJAVEC_ENGINE_URL": f"http://127.0.0.1:{free_port()}",
            "DEJAVEC_KEY_SECRET": "5e" * 32,
            "PYTHONPATH": str(ROOT),
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DEJAVEC_")}
        command = [sys.executable, "-m", "deploy.cli", "gateway"]
        with stderr.open("ab") as file:
            self.process = subprocess.Popen(command, cwd=folder, env={**kept, **own, **variables}, stderr=file)

    def get(self, path: str) -> str:
        """What it answers; empty when it does not."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as reply:
            content: bytes = reply.read()
            return content.decode()
        return ""

    def workers(self) -> set[int]:
        """Processes of workers; not that of multiprocessing, which tracks its resources."""
        found = set()
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it has just ended
                if any("spawn_main" in word for word in child.cmdline()):
                    found.add(child.pid)
        return found


@contextmanager
def running(folder: Path, stderr: Path, **variables: str) -> Iterator[Gateway]:
    gateway = Gateway(folder, stderr, **variables)
    try:
        until(lambda: "alive" in gateway.get("/health"), "an answer")
        yield gateway
    finally:
        gateway.process.terminate()
        gateway.process.wait(60)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain: {what}"
        time.sleep(0.05)


def replace_a_worker(gateway: Gateway) -> int:
    """kill -9 one, and wait until another one has its place; returns its number."""
    before = gateway.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(gateway.workers() - {victim}) == 2, "another worker")
    (fresh,) = gateway.workers() - before
    return fresh


def start_time_s(metrics: str) -> float:
    """When the worker was started whose metrics these are; 0 without an answer."""
    lines = [line for line in metrics.splitlines() if line.startswith("process_start_time_seconds ")]
    return float(lines[0].split()[1]) if lines else 0.0


def test_workers_outlive_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """No room for metrics or for the log: both workers serve, and one that is killed is replaced by one that serves."""
    fill(small_disk)
    (small_disk / "log").touch()
    with running(tmp_path, small_disk / "log", PROMETHEUS_MULTIPROC_DIR=str(small_disk)) as gateway:
        assert len(gateway.workers()) == 2
        fresh = psutil.Process(replace_a_worker(gateway))
        born_s = fresh.create_time()
        until(lambda: abs(start_time_s(gateway.get("/metrics")) - born_s) < 0.5, "an answer of the new worker")
        assert fresh.is_running()
    assert (small_disk / "log").read_text() == ""


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no storage in memory on this system")
def test_metrics_lie_in_memory_and_go_with_the_process(tmp_path: Path) -> None:
    """A folder for as long as the gateway runs, in which each worker has its files; a replaced one's counts stay.

    The death of the replaced one is a warning, and nothing else of uvicorn's own lines is written.
    """
    before = set(MEMORY.glob(f"{PREFIX}*"))
    with running(tmp_path, tmp_path / "log") as gateway:
        (folder,) = set(MEMORY.glob(f"{PREFIX}*")) - before
        until(lambda: len(list(folder.glob("counter_*.db"))) == 2, "the workers' files")
        victim = min(gateway.workers())
        fresh = replace_a_worker(gateway)
        until((folder / f"counter_{fresh}.db").is_file, "the new worker's files")
        assert len(list(folder.glob("counter_*.db"))) == 3
        assert "embeddings_latency_seconds_count" in gateway.get("/metrics")
    assert not folder.exists()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    [died] = [line for line in log.splitlines() if "logger=uvicorn" in line]
    assert f'level=warning logger=uvicorn.error msg="worker process {victim} ended unexpectedly; another one' in died


async def test_clients_see_neither_address_nor_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """Of an engine that cannot be reached, whatever they ask; the log has the address, and no credentials either."""
    port = free_port()
    url = f"http://me:{CREDENTIAL}@127.0.0.1:{port}"
    headers = {"authorization": "Bearer operator-of-these-tests"}
    async with running_gateway(url, admin_token="operator-of-these-tests") as client:
        replies = [await client.get(path) for path in OPEN_ROUTES]
        replies.append(await client.post("/v1/embeddings", json={"model": "x", "input": "a"}))
        replies.append(await client.post("/embed", json={"inputs": "a"}))
        while "it cannot be reached" in (stats := (await client.get("/admin/stats", headers=headers)).text):
            pass
        replies.append(await client.get("/ready"))
    shown = "\n".join(f"{reply.headers}\n{reply.text}" for reply in replies)
    assert replies[-1].json()["engine"] == "it cannot be reached"
    assert "Error:" not in shown
    assert str(port) not in shown
    for text in (shown, stats, *map(KeyValueFormatter().format, caplog.records)):
        assert CREDENTIAL not in text
    assert f"http://***@127.0.0.1:{port}" in stats
    assert f"http://***@127.0.0.1:{port}: ClientConnectorError: Cannot connect" in caplog.text


async def test_an_engine_with_credentials_is_used_and_its_own_words_are_not_shown() -> None:
    """The password reaches the engine; what the engine says of itself, paths included, reaches the operator alone."""
    headers = {"authorization": "Bearer operator-of-these-tests"}
    async with StandInEngine().running() as engine:
        url = engine.url.replace("http://", f"http://me:{CREDENTIAL}@")
        async with running_gateway(url, admin_token="operator-of-these-tests") as client:
            await until_ready(client)
            assert (await client.get("/info")).json()["fingerprint"] == engine.fingerprint
            engine.ready = False
            await until_ready(client, 503)
            assert (await client.get("/ready")).json()["engine"] == "its /ready answers 503"
            stats = (await client.get("/admin/stats", headers=headers)).json()
            assert CREDENTIAL not in stats["models"]["default"]
            assert stats["models"]["default"].startswith("http://***@127.0.0.1:")
