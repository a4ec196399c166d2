"""Real Sentinels for tests: a master, a replica, and three Sentinels that watch them, of the embedded server.

with running_sentinels(tmp_path) as found: found.url, found.master.kill(), found.replica
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import redis

from deploy.embedded_redis import Binaries, Instance, configure
from tests.running_redis import RunningRedis, stop_all

NAME = "mymaster"
PATIENCE_S = 30.0
PASSWORD, OF_SENTINELS = "password-of-the-servers", "password-of-the-sentinels"


@dataclass(frozen=True)
class RunningSentinels:
    """What runs; `url` leads to the master through the Sentinels."""

    url: str
    master: RunningRedis
    replica: RunningRedis
    sentinels: list[RunningRedis]


@contextmanager
def running_sentinels(folder: Path, binaries: Binaries) -> Iterator[RunningSentinels]:
    """A master that Sentinels watch, as long as the block runs."""
    bare = Binaries(binaries.server, None)
    servers = [_server(folder / name, bare) for name in ("master", "replica")]
    with ExitStack() as stack:
        master, replica = servers
        _add(replica, f"replicaof 127.0.0.1 {master.port}\n")
        started = [RunningRedis(server) for server in servers]
        stack.callback(stop_all, started)
        for one in started:
            one.wait_ready()
        _until(lambda: _ask(started[1], b"ROLE")[3] == b"connected")
        sentinels = [RunningRedis(_sentinel(folder / f"sentinel-{n}", bare, master.port)) for n in range(3)]
        stack.callback(stop_all, sentinels)
        for one in sentinels:
            one.wait_ready()
        for one in sentinels:
            _until(partial(_knows_all, one))
        addresses = ",".join(f"127.0.0.1:{one.instance.port}" for one in sentinels)
        url = f"redis+sentinel://:{PASSWORD}@{addresses}/{NAME}?sentinel_password={OF_SENTINELS}"
        yield RunningSentinels(url, *started, sentinels)


def _server(folder: Path, binaries: Binaries) -> Instance:
    folder.mkdir()
    (folder / "password").write_text(PASSWORD)
    instance = configure(folder, binaries, maxmemory_mb=64)
    _add(instance, f"masterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n")
    return instance


def _sentinel(folder: Path, binaries: Binaries, master: int) -> Instance:
    folder.mkdir()
    (folder / "password").write_text(OF_SENTINELS)
    instance = configure(folder, binaries)
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
