"""A real Redis for tests, started from the embedded one's wheels.

with running_redis(tmp_path) as redis: redis.url, redis.kill(), redis.restart()
"""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.embedded_redis import Binaries, Instance, NotAvailable, answers, configure, locate, locate_valkey
from tests.free_ports import DidNotStart, free_ports, with_other_ports

START_TIMEOUT_S = 30.0


class RunningRedis:
    """A started server and its process."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.url = instance.url
        self.log = instance.folder / "redis.log"
        self.process = self._spawn()

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Block until the server answers. Raises DidNotStart with its last lines."""
        deadline = time.monotonic() + timeout_s
        while not answers(self.instance):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise DidNotStart(f"the embedded Redis did not start: {last_lines(self.log)}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM: the server writes its append-only file out and leaves; killed after `timeout_s`."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Start it again on the same port with the same data."""
        self.stop()
        self.process = self._spawn()
        self.wait_ready()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.instance.command, stdout=log, stderr=subprocess.STDOUT)


def stop_all(servers: Sequence[RunningRedis]) -> None:
    """Stop several at once."""
    for server in servers:
        server.process.send_signal(signal.SIGTERM)
    for server in servers:
        server.stop()


@contextmanager
def running_redis(folder: Path, *, maxmemory_mb: int = 256, binaries: Binaries | None = None) -> Iterator[RunningRedis]:
    """A Redis that runs as long as the block; `binaries` are others than the embedded ones. Raises NotAvailable,
    DidNotStart."""
    chosen = binaries or locate()

    def start() -> RunningRedis:
        (port,) = free_ports(1)
        redis = RunningRedis(configure(folder, chosen, maxmemory_mb=maxmemory_mb, port=port))
        redis.wait_ready()
        return redis

    redis = with_other_ports(start)
    try:
        yield redis
    finally:
        redis.stop()


def valkey_binaries() -> Binaries:
    """Valkey's server, with the embedded RediSearch. Skips the test where it is not installed."""
    try:
        return locate_valkey()
    except NotAvailable as reason:
        pytest.skip(str(reason))


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log file, for an error message."""
    if not log.is_file():
        return "it left no log"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]) or "its log is empty"
