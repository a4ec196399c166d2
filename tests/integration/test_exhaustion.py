"""One tenant's long texts against a real gateway process: memory stays, others are answered, SIGTERM ends it."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import orjson
import psutil
import pytest

from tests.background import in_background
from tests.free_ports import free_port
from tests.stand_in_engine import StandInEngine

MIB = 1024 * 1024
PATIENCE_S = 120.0
LONG = 199_000  # characters; the limit is 200,000
TEXTS = ["a b c " * (LONG // 6), "x" * LONG, "電" * (LONG // 3), " " * LONG, "e" + "\u0301" * (LONG // 2)]
KEYS = {f"key-of-namespace-{name}": {"namespace": name} for name in ("attacker", "victim")}
GROWTH_MIB = 400
DRAIN_S = 60


class Gateway:
    """A gateway process with two tenants, and its resident memory."""

    def __init__(self, folder: Path, engine_url: str) -> None:
        self.port = free_port()
        own = {
            "DEJAVEC_GATEWAY_PORT": str(self.port),
            "DEJAVEC_ENGINE_URL": engine_url,
            "DEJAVEC_API_KEYS": json.dumps(KEYS),
            "DEJAVEC_DRAIN_TIMEOUT_S": str(DRAIN_S),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DEJAVEC_")}
        self.process = subprocess.Popen([sys.executable, "-m", "deploy.cli", "gateway"], cwd=folder, env=kept | own)
        self._peak = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rss_mib(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss // MIB

    def stop(self) -> None:
        """Kill it, if it still runs."""
        self._ended.set()
        self._sampler.join()
        self.process.kill()
        self.process.wait()

    def peak_mib(self) -> int:
        """The most it has had until now."""
        return self._peak

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.01):
                self._peak = max(self._peak, self.rss_mib)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    @asynccontextmanager
    async def engine() -> AsyncIterator[str]:
        async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
            yield engine.url

    with in_background(engine()) as url:
        gateway = Gateway(tmp_path, url)
        try:
            until(lambda: status(gateway, "victim", "a b") == 200, gateway)
            yield gateway
        finally:
            gateway.stop()


def until(condition: Callable[[], bool], gateway: Gateway) -> None:
    """Wait for it, while the gateway runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert gateway.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(gateway: Gateway, tenant: str, *texts: str) -> int:
    """Of one request; 0 while nothing listens."""
    headers = {"authorization": f"Bearer key-of-namespace-{tenant}", "content-type": "application/json"}
    body = orjson.dumps({"model": "tiny", "input": texts})
    try:
        return httpx.post(gateway.url + "/v1/embeddings", content=body, headers=headers, timeout=PATIENCE_S).status_code
    except httpx.ConnectError:
        return 0


def send_and_leave(gateway: Gateway, body: bytes, *, chunked: bool) -> None:
    """All of a body, and then the end of the connection, without a look at the reply."""
    size = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: g\r\nauthorization: Bearer key-of-namespace-attacker\r\n"
    head += b"content-type: application/json\r\n" + size + b"\r\n\r\n"
    content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(head + content)
        except OSError:
            return  # refused before all of it was read
        time.sleep(0.2)


def eighty(number: int) -> list[str]:
    """As many long texts as one body has room for, which no other number has."""
    return [f"{number} {place} {text}"[:LONG] for place, text in enumerate(TEXTS * 16)]


def attack(gateway: Gateway, rounds: int) -> None:
    """Eight bodies of eighty long texts at a time, each left as soon as it is sent."""
    for number in range(rounds):
        body = orjson.dumps({"model": "tiny", "input": eighty(number)})
        leaving = [
            threading.Thread(target=send_and_leave, args=(gateway, body), kwargs={"chunked": place % 2 == 1})
            for place in range(8)
        ]
        for one in leaving:
            one.start()
        for one in leaving:
            one.join()


def test_long_texts_that_nobody_waits_for_cost_little(gateway: Gateway) -> None:
    """Memory comes back, another tenant's long texts are answered meanwhile, and SIGTERM ends it before its limit."""
    assert status(gateway, "attacker", *eighty(-1)) == 200  # it is a legal request
    before_mib = gateway.rss_mib
    attacker = threading.Thread(target=attack, args=(gateway, 3))
    attacker.start()
    statuses = []
    while attacker.is_alive():
        statuses.append(status(gateway, "victim", *("a b c d " * 2500 for _ in range(5)), f"w{len(statuses)}"))
    attacker.join()
    assert set(statuses) == {200}
    until(lambda: gateway.rss_mib < before_mib + GROWTH_MIB / 2, gateway)
    assert gateway.peak_mib() < before_mib + GROWTH_MIB
    print(
        f"RSS {before_mib} MiB before, {gateway.peak_mib()} at most, {gateway.rss_mib} after; {len(statuses)} answers"
    )
    attack(gateway, 1)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(DRAIN_S / 2) in (0, -signal.SIGTERM)
