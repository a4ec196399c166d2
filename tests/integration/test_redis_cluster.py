"""The exact tier, epochs and live values over a real Redis Cluster: spread, resharded under load, a master lost."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from redis.crc import key_slot

from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.keys import LIVE_KEY, Scope, epoch_key, exact_key
from cache.redis_figures import read_figures
from cache.redis_link import RedisAway, RedisLink
from cache.redis_url import Topology
from cache.shared_limits import Ask, Count, SharedLimits
from cache.shared_settings import SharedSettings
from cache.usage import Counts, UsageStore
from common.tasks import cancel_and_wait
from deploy.embedded_redis import NotAvailable, locate
from tests.gateway_client import running_gateway, until_ready
from tests.redis_cluster import RunningCluster, running_cluster
from tests.running_redis import valkey_binaries
from tests.stand_in_engine import StandInEngine

SECRET = b"s" * 32
DIMENSIONS = 8
PATIENCE_S = 120.0


@pytest.fixture(scope="module", params=["redis", "valkey"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    try:
        binaries = valkey_binaries() if request.param == "valkey" else locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with running_cluster(tmp_path_factory.mktemp("cluster"), binaries) as cluster:
        yield cluster


@pytest.fixture
async def link(cluster: RunningCluster) -> AsyncIterator[RedisLink]:
    link = RedisLink(cluster.url, timeout_s=2.0)
    yield link
    await link.aclose()


@asynccontextmanager
async def running(*loops: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(loop()) for loop in loops]
    try:
        yield
        assert not any(task.done() for task in tasks), "a loop has ended"
    finally:
        await cancel_and_wait(tasks)


async def test_limits_and_usage_of_keys_on_every_master(link: RedisLink) -> None:
    """A key's limit and its counts lie on one server, those of many keys on all; each ask is answered."""
    limits, store = SharedLimits(link, "a" * 16), UsageStore(link, "a" * 16)
    for number in range(12):
        key_id = secrets.token_hex(8)
        none = Count("", 0, 0)
        ask = Ask(
            1, key_id, "requests", capacity=10, need=4, waiting=0, ahead=0, back=0, returned=0, day=none, month=none
        )
        assert (await limits.ask(ask)).granted == 4
        await store.record(key_id, 1, {"2026-11-26": Counts(requests=number)})
        assert (await store.read(key_id))["2026-11-26"].requests == number
    assert await store.present() == 1


def exact_tier(link: RedisLink) -> ExactTier:
    return ExactTier(link, SECRET, ttl_s=600, ttl_jitter=0.1)


def vector(digest: bytes) -> bytes:
    """The one vector that belongs to a digest."""
    return np.frombuffer(digest * 2, dtype="<u4").astype("<f4").tobytes()


def entries(count: int) -> list[tuple[bytes, bytes]]:
    digests = [secrets.token_bytes(16) for _ in range(count)]
    return [(digest, vector(digest)) for digest in digests]


async def stored(tier: ExactTier, count: int) -> list[bytes]:
    """Digests of entries that the cluster has now; a write that is late on a busy machine is dropped, so done again."""
    new = entries(count)
    deadline, missing = time.monotonic() + PATIENCE_S, new
    while missing:
        assert time.monotonic() < deadline, f"{len(missing)} of {count} are not stored"
        tier.put_many(missing)
        await tier.flush(10)
        found = await tier.get_many([digest for digest, _ in new], DIMENSIONS)
        missing = [entry for entry, vector in zip(new, found, strict=True) if vector is None]
    return [digest for digest, _ in new]


async def test_figures_are_those_of_all_masters(cluster: RunningCluster, link: RedisLink) -> None:
    """Keys and limits are sums, whichever server answers first; twice the same."""
    exact, masters = exact_tier(link), cluster.nodes[:3]
    async with running(exact.run_writer):
        await stored(exact, 100)
    for _ in range(2):
        found = await read_figures(link)
        assert found is not None
        assert (found.servers, found.memory_max_bytes) == (3, 3 * 64 * 2**20)
        assert found.keys == sum(cluster.ask(one, b"DBSIZE") for one in masters) >= 100
        assert found.fullest_memory_bytes < found.memory_bytes


@asynccontextmanager
async def load(tier: ExactTier, digests: list[bytes], seen: list[tuple[bytes, bytes | None]]) -> AsyncIterator[None]:
    """Look-ups of all, and writes of new ones, again and again; `seen` gets what each look-up found."""

    async def look_up() -> None:
        while True:
            batch = secrets.SystemRandom().sample(digests, 32)
            found = await tier.get_many(batch, DIMENSIONS)
            seen.extend(zip(batch, found, strict=True))
            tier.put_many(entries(4))
            await asyncio.sleep(0.002)

    async with running(look_up, look_up):
        yield


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def until_all_found(tier: ExactTier, digests: list[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while None in (found := await tier.get_many(digests, DIMENSIONS)):
        assert time.monotonic() < deadline, f"{found.count(None)} of {len(found)} are not found"
        await asyncio.sleep(0.05)


async def test_entries_are_spread_and_found(cluster: RunningCluster, link: RedisLink) -> None:
    """One look-up finds entries of all masters; writes reach all."""
    tier = exact_tier(link)
    async with running(tier.run_writer):
        digests = await stored(tier, 200)
        assert await tier.get_many(digests, DIMENSIONS) == [vector(one) for one in digests]
    assert len({cluster.owner_of(exact_key(one)).instance.port for one in digests[:50]}) == 3
    assert len(link.servers) == 3
    assert link.state == "ok"


async def test_a_plain_url_of_one_node_is_enough(cluster: RunningCluster, link: RedisLink) -> None:
    """A cluster is noticed when asked for, and else by the first key that is elsewhere."""
    tier = exact_tier(link)
    async with running(tier.run_writer):
        digests = await stored(tier, 50)
    asked, unasked, alone = (RedisLink(cluster.nodes[place].url, timeout_s=2.0) for place in (0, 4, 5))
    try:
        assert asked.topology is Topology.SINGLE
        await asked.find()
        assert asked.is_cluster
        assert await exact_tier(unasked).get_many(digests, DIMENSIONS) == [vector(one) for one in digests]
        assert unasked.is_cluster
        key = exact_key(digests[0])
        assert await alone.call(lambda redis: redis.get(key), key=key) is not None
    finally:
        for one in (asked, unasked, alone):
            await one.aclose()


async def test_purges_and_live_values_reach_other_gateways(cluster: RunningCluster, link: RedisLink) -> None:
    """Each key on its own server: epochs of many namespaces, the document of live values."""
    namespaces = [secrets.token_hex(4) for _ in range(20)]
    other_link = RedisLink(cluster.url, timeout_s=2.0)
    ours, theirs = Epochs(link, SECRET), Epochs(other_link, SECRET)
    before = {name: await ours.ensure(name) for name in namespaces}
    assert None not in before.values()
    assert {name: await theirs.ensure(name) for name in namespaces} == before
    epoch, is_on_disk = await ours.purge(namespaces[0])
    assert is_on_disk
    async with running(theirs.run_refresh):
        await until(lambda: (theirs.current(namespaces[0]) or ("", ""))[1] == epoch)
    assert theirs.current(namespaces[1]) == before[namespaces[1]]

    record = SharedSettings(link, SECRET)
    old = await record.load()
    assert await record.replace(old, record.seal(b"{}"))
    assert record.open(await SharedSettings(other_link, SECRET).load()) == b"{}"
    await other_link.aclose()


async def test_a_gateway_on_a_cluster(cluster: RunningCluster, caplog: pytest.LogCaptureFixture) -> None:
    """By a plain URL of one node: exact hits and purges; no semantic tier, which the log says with the remedy."""
    caplog.set_level("INFO")
    engine = StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True)
    settings = {"redis_url": cluster.nodes[0].url, "local_cache_mb": 0, "admin_token": "operator-of-these-tests"}
    operator = {"authorization": "Bearer operator-of-these-tests"}
    async with engine.running() as at, running_gateway(at.url, semantic_mode="on", **settings) as client:
        await until_ready(client)

        async def tiers_of(texts: list[str]) -> set[str]:
            reply = await client.post("/v1/embeddings", json={"model": "tiny", "input": texts})
            assert reply.status_code == 200
            return set(reply.headers["x-cache-items"].split(","))

        texts = [f"w{number} w{number + 1} w{number + 2} w{number + 3}" for number in range(30)]
        await tiers_of(texts)
        async with asyncio.timeout(PATIENCE_S):
            while not all("exact" in tier for tier in await tiers_of(texts)):
                await asyncio.sleep(0.05)
        assert (await client.get("/ready")).json()["redis"] == "ok"
        assert (await client.post("/admin/explain", json={"text": texts[0]}, headers=operator)).status_code == 404
        assert (await client.post("/admin/purge", json={"namespace": "default"}, headers=operator)).status_code == 200
        assert all("miss" in tier for tier in await tiers_of(texts))
    assert "cluster of 3 masters: exact tier, no semantic tier" in caplog.text
    assert "set semantic_redis_url" in caplog.text


async def test_a_slot_on_its_way_answers(cluster: RunningCluster, link: RedisLink) -> None:
    """ASK is followed: look-ups, writes, a new epoch, a purge and live values of a slot that is between two masters."""
    name, record, tier = secrets.token_hex(4), SharedSettings(link, SECRET), exact_tier(link)
    digest = secrets.token_bytes(16)
    for key in (epoch_key(name), LIVE_KEY, exact_key(digest)):
        of, slot = cluster.owner_of(key), key_slot(key)
        to = next(one for one in cluster.nodes if one is not of and cluster.ask(one, b"ROLE")[0] == b"master")
        cluster.ask(of, b"DEL", key)
        cluster.ask(to, b"CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(of))
        cluster.ask(of, b"CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(to))
        try:
            if key == epoch_key(name):
                epochs = Epochs(link, SECRET)
                assert await epochs.ensure(name) is not None
                assert (await epochs.purge(name))[1]
            elif key == LIVE_KEY:
                assert await record.replace(b"", record.seal(b"{}"))
                assert record.open(await record.load()) == b"{}"
            else:
                async with running(tier.run_writer):
                    tier.put_many([(digest, vector(digest))])
                    await tier.flush(10)
                assert await tier.get_many([digest], DIMENSIONS) == [vector(digest)]
        finally:
            cluster.move([slot], of, to)
    assert link.state == "ok"


async def test_resharding_under_load_loses_nothing(cluster: RunningCluster, link: RedisLink) -> None:
    """While slots with their entries move between masters, each look-up finds the right vector or none; all are found
    afterwards."""
    tier, seen = exact_tier(link), []
    async with running(tier.run_writer):
        digests = await stored(tier, 400)
        async with load(tier, digests, seen):
            for digest in digests[:40]:
                of = cluster.owner_of(exact_key(digest))
                to = next(one for one in cluster.nodes if one is not of and cluster.ask(one, b"ROLE")[0] == b"master")
                await asyncio.to_thread(cluster.move, [key_slot(exact_key(digest))], of, to)
        await until_all_found(tier, digests)
    assert seen
    assert all(found in {None, vector(digest)} for digest, found in seen)
    assert sum(found is None for _, found in seen) < len(seen) / 10
    assert link.state == "ok"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_master_costs_its_own_entries_until_its_replica_takes_over(
    cluster: RunningCluster, how: signal.Signals
) -> None:
    """Killed or frozen under load: others' entries go on being found, no look-up finds a wrong vector, and when the
    replica has taken over all are found and written again."""
    await asyncio.to_thread(cluster.wait_sound)
    link = RedisLink(cluster.url, timeout_s=1.0)
    tier, seen = exact_tier(link), []
    async with running(tier.run_writer):
        digests = await stored(tier, 300)
        owners = {digest: cluster.owner_of(exact_key(digest)) for digest in digests}
        lost = owners[digests[0]]
        await asyncio.to_thread(cluster.wait_replicated, lost)
        cluster.allow_failover(False)
        safe = [digest for digest in digests if owners[digest] is not lost]
        async with load(tier, digests, seen):
            await until(lambda: len(seen) > 100)
            os.kill(lost.process.pid, how)
            await until(lambda: link.state == "partly away")
            assert sorted(link.servers.values()) == ["away", "ok", "ok"]
            await until_all_found(tier, safe)
            assert None in await tier.get_many(digests, DIMENSIONS)
            cluster.allow_failover(True)
            await until_all_found(tier, digests)
            await until_all_found(tier, await stored(tier, 100))
    assert all(found in {None, vector(digest)} for digest, found in seen)
    of_others = [found for digest, found in seen if owners[digest] is not lost]
    assert sum(found is None for found in of_others) < len(of_others) / 10
    await link.aclose()
    if how is signal.SIGSTOP:
        os.kill(lost.process.pid, signal.SIGCONT)
    else:
        await asyncio.to_thread(lost.restart)
    await asyncio.to_thread(cluster.wait_sound)


async def test_a_cluster_that_is_not_there_is_away() -> None:
    """At once, and as every other failure."""
    link = RedisLink("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout_s=0.5)
    with pytest.raises(RedisAway):
        await link.call(lambda redis: redis.ping())
    assert await exact_tier(link).get_many([b"d" * 16], DIMENSIONS) == [None]
    assert link.state == "away"
    await link.aclose()


async def test_epochs_that_are_not_told_for_long_are_not_gone_by(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server has the epoch and others the entries: who does not reach that one may have missed a purge."""
    epochs, name = Epochs(link, SECRET), secrets.token_hex(4)
    assert await epochs.ensure(name) is not None
    now = time.monotonic()
    monkeypatch.setattr("cache.epochs.time.monotonic", lambda: now + 31)
    assert epochs.current(name) is None
    assert await epochs.ensure(name) is not None
    assert Scope(SECRET, "f", name, epochs.current(name) or ("", "")).namespace == name
