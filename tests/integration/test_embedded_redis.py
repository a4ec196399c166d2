"""The embedded Redis really runs, searches, keeps its data and keeps strangers out."""

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from deploy.embedded_redis import Binaries, NotAvailable, configure, locate
from tests.free_ports import DidNotStart
from tests.running_redis import RunningRedis, running_redis, valkey_binaries

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with running_redis(tmp_path_factory.mktemp("redis") / 'a "quoted" folder') as running:
        yield running


@pytest.fixture
def client(server: RunningRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, protocol=2) as connection:
        yield connection


def test_knn_search_answers(client: redis.Redis) -> None:
    """FT.CREATE with a flat vector index, and a KNN query over it returns the nearest document."""
    schema = "SCHEMA v VECTOR FLAT 6 TYPE FLOAT32 DIM 4 DISTANCE_METRIC COSINE"
    client.execute_command(*f"FT.CREATE knn:idx ON HASH PREFIX 1 knn: {schema}".split())
    for row in range(4):
        client.hset(f"knn:{row}", mapping={"v": np.eye(4, dtype=np.float32)[row].tobytes()})
    query = np.array([0.1, 0.2, 0.9, 0.1], dtype=np.float32).tobytes()
    knn = ["FT.SEARCH", "knn:idx", "*=>[KNN 2 @v $q AS distance]", "PARAMS", "2", "q", query]
    order = ["SORTBY", "distance", "LIMIT", "0", "2", "RETURN", "1", "distance", "DIALECT", "2"]
    assert client.execute_command(*knn, *order)[1] == b"knn:2"


def test_data_survive_kill_nine(tmp_path: Path) -> None:
    """What was written (and fsynced, once a second) is there after kill -9 and a restart on the same port."""
    with running_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("kept", "value")
        client.execute_command("WAITAOF", 1, 0, 2000)
        server.kill()
        server.restart()
        assert client.get("kept") == b"value"


def test_a_stranger_is_refused(server: RunningRedis) -> None:
    """Without the password nothing is read; port and password files are for their owner alone."""
    with socket.create_connection(("127.0.0.1", server.instance.port), timeout=5) as stranger:
        stranger.sendall(b"GET anything\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
    for name in ("password", "redis.conf"):
        assert stat.S_IMODE((server.instance.folder / name).stat().st_mode) == 0o600


def test_memory_is_bounded_and_lasting_keys_are_spared(client: redis.Redis) -> None:
    """Eviction takes only keys with a TTL; the append-only file is on."""
    assert client.config_get("maxmemory")["maxmemory"] == str(256 * 2**20)
    assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-lru"
    assert client.config_get("appendonly")["appendonly"] == "yes"


def test_port_and_password_are_kept(tmp_path: Path) -> None:
    """A second start listens where the first one did, with the same password."""
    first = configure(tmp_path, locate())
    assert configure(tmp_path, locate()).url == first.url


def test_files_that_may_not_be_executed_are_copied(tmp_path: Path) -> None:
    """A wheel unpacked without modes works: the server runs from a copy in the data folder."""
    installed = locate()
    plain = tmp_path / "site-packages" / "redis-server"
    plain.parent.mkdir()
    plain.write_bytes(installed.server.read_bytes())
    plain.chmod(0o444)
    instance = configure(tmp_path / "redis", Binaries(plain, installed.search_module))
    assert instance.command[0] == str(tmp_path / "redis" / "bin" / "redis-server")
    server = RunningRedis(instance)
    server.wait_ready()
    server.stop()
    assert server.process.returncode == 0


def test_valkey_takes_its_place_beside_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Redis server for this Python; the files that Redis has left there are not touched."""
    valkey = valkey_binaries()
    with running_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("of", "redis")
    monkeypatch.setattr("deploy.embedded_redis.SERVER_PACKAGE", "no_such_package")
    assert locate() == valkey
    with running_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.info("server")["server_name"] == "valkey"
        assert client.get("of") is None
    monkeypatch.undo()
    with running_redis(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("of") == b"redis"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the end of the server's log."""
    module = tmp_path / "redisearch.so"
    module.write_bytes(b"not a module")
    module.chmod(0o755)
    server = RunningRedis(configure(tmp_path / "redis", Binaries(locate().server, module)))
    with pytest.raises(DidNotStart, match="redisearch"):
        server.wait_ready()
