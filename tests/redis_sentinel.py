"""Real Sentinels for tests: a master, a replica, and three Sentinels that watch them, of the embedded server.

with running_sentinels(tmp_path) as found: found.url, found.master.kill(), found.replica
"""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import redis

from deploy.embedded_redis import Binaries, Instance, configure
from tests.free_ports import free_ports, with_other_ports
from tests.running_redis import RunningRedis, stop_all

NAME = "mymaster"
SENTINELS = 3
PATIENCE_S = 120.0
PASSWORD, OF_SENTINELS = secrets.token_hex(16), secrets.token_hex(16)  # another process's server is not taken for ours


@dataclass(frozen=True)
class RunningSentinels:
    """What runs; `url` leads to the master through the Sentinels."""

    url: str
    master: RunningRedis
    replica: RunningRedis
    sentinels: list[RunningRedis]


@contextmanager
def running_sentinels(folder: Path, binaries: Binaries) -> Iterator[RunningSentinels]:
    """A master that Sentinels watch, as long as the block runs. Raises DidNotStart."""
    found = with_other_ports(lambda: _started(folder / secrets.token_hex(4), Binaries(binaries.server, None)))
    try:
        yield found
    finally:
        stop_all(found.sentinels)
        stop_all([found.master, found.replica])


def _started(folder: Path, bare: Binaries) -> RunningSentinels:
    folder.mkdir()
    ports = free_ports(2 + SENTINELS)
    servers = [_server(folder / name, bare, port) for name, port in zip(("master", "replica"), ports, strict=False)]
    master, replica = servers
    _add(replica, f"replicaof 127.0.0.1 {master.port}\n")
    with ExitStack() as stack:
        started = [RunningRedis(server) for server in servers]
        stack.callback(stop_all, started)
        for one in started:
            one.wait_ready()
        _until(lambda: _ask(started[1], b"ROLE")[3] == b"connected")
        sentinels = [
            RunningRedis(_sentinel(folder / f"sentinel-{port}", bare, port, master.port)) for port in ports[2:]
        ]
        stack.callback(stop_all, sentinels)
        for one in sentinels:
            one.wait_ready()
        for one in sentinels:
            _until(partial(_knows_all, one))
        stack.pop_all()
    addresses = ",".join(f"127.0.0.1:{one.instance.port}" for one in sentinels)
    url = f"redis+sentinel://:{PASSWORD}@{addresses}/{NAME}?sentinel_password={OF_SENTINELS}"
    return RunningSentinels(url, *started, sentinels)


def _server(folder: Path, binaries: Binaries, port: int) -> Instance:
    folder.mkdir()
    (folder / "password").write_text(PASSWORD)
    instance = configure(folder, binaries, maxmemory_mb=64, port=port)
    _add(instance, f"masterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n")
    return instance


def _sentinel(folder: Path, binaries: Binaries, port: int, master: int) -> Instance:
    folder.mkdir()
    (folder / "password").write_text(OF_SENTINELS)
    instance = configure(folder, binaries, port=port)
    (folder / "redis.conf").write_text(
        f"bind 127.0.0.1\nport {instance.port}\nrequirepass {OF_SENTINELS}\ndir {folder}\n"
        f"sentinel monitor {NAME} 127.0.0.1 {master} 2\nsentinel auth-pass {NAME} {PASSWORD}\n"
        f"sentinel down-after-milliseconds {NAME} 500\nsentinel failover-timeout {NAME} 3000\n"
    )
    return replace(instance, command=(*instance.command, "--sentinel"))


def _add(instance: Instance, lines: str) -> None:
    with (instance.folder / "redis.conf").open("a") as config:
        config.write(lines)


def _knows_all(sentinel: RunningRedis) -> bool:
    words = _ask(sentinel, b"SENTINEL", "MASTER", NAME)
    found = dict(zip(words[::2], words[1::2], strict=True))
    return found[b"num-slaves"] == b"1" and found[b"num-other-sentinels"] == b"2"


def _ask(server: RunningRedis, *words: object) -> list[bytes]:
    with redis.Redis.from_url(server.url, protocol=2) as client:
        return client.execute_command(*words)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
