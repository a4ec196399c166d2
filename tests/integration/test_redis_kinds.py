"""Gateways' ways to other kinds of Redis than one open server: Sentinels, TLS, an ACL user, Valkey."""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis as redis_py

from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.keys import Scope
from cache.redis_facts import RedisFacts, find_facts
from cache.redis_link import RedisAway, RedisLink
from cache.redis_url import TlsFiles, Topology
from cache.semantic.exchange import RedisExchange, Saved
from cache.semantic.index import Neighbour, RedisIndex
from cache.shared_limits import Ask, Count, SharedLimits
from cache.shared_settings import SharedSettings
from cache.usage import DAYS, MONTHS, Counts, UsageStore
from deploy.embedded_redis import NotAvailable, locate
from tests.gateway_client import running_gateway
from tests.integration.test_semantic_tier import BASE, near, ready_with, tier
from tests.redis_sentinel import RunningSentinels, running_sentinels
from tests.running_redis import RunningRedis, running_redis, valkey_binaries
from tests.stand_in_engine import StandInEngine
from tests.tls_front import Certificates, make_certificates, tls_front

SECRET = b"s" * 32
DIMENSIONS = 8
PAGE = Path(__file__).parents[2] / "docs" / "redis.md"


def exact_tier(link: RedisLink) -> ExactTier:
    return ExactTier(link, SECRET, ttl_s=600, ttl_jitter=0.1)


async def is_kept(link: RedisLink) -> bool:
    """Whether an entry that is written now is found."""
    exact, digest, vector = exact_tier(link), secrets.token_bytes(16), np.ones(DIMENSIONS, dtype="<f4").tobytes()
    writer = asyncio.create_task(exact.run_writer())
    exact.put_many([(digest, vector)])
    await exact.flush(5)
    writer.cancel()
    return await exact.get_many([digest], DIMENSIONS) == [vector]


async def until_kept(link: RedisLink) -> None:
    async with asyncio.timeout(60):
        while not await is_kept(link):
            await asyncio.sleep(0.1)


# Sentinels


@pytest.fixture(params=["redis", "valkey"])
def sentinels(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningSentinels]:
    try:
        binaries = valkey_binaries() if request.param == "valkey" else locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with running_sentinels(tmp_path, binaries) as running:
        yield running


async def test_a_failover_is_followed(sentinels: RunningSentinels) -> None:
    """The master is the one that Sentinels name, with passwords of both; when it is killed there are misses until
    another is named, and then entries as before, and purges."""
    link = RedisLink(sentinels.url, timeout_s=1.0)
    assert await is_kept(link)
    assert link.state == "ok"
    assert (await find_facts(link)).topology is Topology.SENTINEL
    assert list(link.servers) == [f"Redis at 127.0.0.1:{sentinels.master.instance.port}"]
    epochs, name = Epochs(link, SECRET), secrets.token_hex(4)
    before = await epochs.ensure(name)
    sentinels.master.kill()
    assert not await is_kept(link)
    await until_kept(link)
    assert list(link.servers) == [f"Redis at 127.0.0.1:{sentinels.replica.instance.port}"]
    assert before is not None
    assert (await epochs.purge(name))[0] > before[1]
    await link.aclose()


async def test_a_failover_is_followed_without_the_right_to_role(
    sentinels: RunningSentinels, caplog: pytest.LogCaptureFixture
) -> None:
    """A user that may not call ROLE: the Sentinels' word is enough, and the log says once what is missing."""
    for server in (sentinels.master, sentinels.replica):
        with redis_py.Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "few", "on", ">a-password-of-few", "~*", "+@all", "-role")
    login = sentinels.url.partition("://")[2].partition("@")[0]
    link = RedisLink(sentinels.url.replace(login, "few:a-password-of-few"), timeout_s=1.0)
    assert await is_kept(link)
    sentinels.master.kill()
    assert not await is_kept(link)
    await until_kept(link)
    assert list(link.servers) == [f"Redis at 127.0.0.1:{sentinels.replica.instance.port}"]
    assert len([record for record in caplog.records if "+role" in record.getMessage()]) == 1
    await link.aclose()


async def test_sentinels_that_name_no_master_are_away(sentinels: RunningSentinels) -> None:
    """Another name, or Sentinels that do not answer: a miss at once."""
    for url in (sentinels.url.replace("/mymaster", "/another"), "redis+sentinel://127.0.0.1:1/mymaster"):
        link = RedisLink(url, timeout_s=1.0)
        with pytest.raises(RedisAway):
            await link.call(lambda redis: redis.ping())
        assert not await is_kept(link)
        assert link.state == "away"
        await link.aclose()


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def tls_port(redis: RunningRedis, certificates: Certificates) -> AsyncIterator[int]:
    async with tls_front(redis.instance.port, certificates) as port:
        yield port


async def test_tls_with_an_authority_and_a_certificate_of_our_own(
    redis: RunningRedis, certificates: Certificates, tls_port: int
) -> None:
    """`rediss` trusts the authority of `redis_ca_file` and shows `redis_cert_file`; without either nothing is sent."""
    url = f"rediss://:{redis.instance.password}@127.0.0.1:{tls_port}/0"
    files = TlsFiles(ca=certificates.ca, certificate=certificates.client)
    files.check()
    link = RedisLink(url, timeout_s=2.0, tls=files)
    assert await is_kept(link)
    facts = await find_facts(link)
    assert facts.has_tls
    assert "TLS" in facts.described
    await link.aclose()
    for lacking in (TlsFiles(certificate=certificates.client), TlsFiles(ca=certificates.ca)):
        stranger = RedisLink(url, timeout_s=2.0, tls=lacking)
        assert not await is_kept(stranger)
        await stranger.aclose()


# an ACL user


def acl_rule() -> list[str]:
    """The rule that the page gives."""
    found = re.search(r"^ +ACL SETUSER (dejavec on >PASSWORD (?:.|\n +)+)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningRedis]:
    """Either server, for this test alone: users and live values are a whole server's."""
    with running_redis(tmp_path, binaries=valkey_binaries() if request.param == "valkey" else locate()) as running:
        yield running


async def test_the_acl_rule_of_the_page_is_enough(server: RunningRedis) -> None:
    """A user with it does all that the product does, both tiers; the server has denied nothing."""
    password = secrets.token_hex(16)
    with redis_py.Redis.from_url(server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", *(word.replace("PASSWORD", password) for word in acl_rule()))
        admin.execute_command("ACL", "LOG", "RESET")
        link = RedisLink(f"redis://dejavec:{password}@127.0.0.1:{server.instance.port}/0", timeout_s=2.0)
        assert (await find_facts(link)).has_search
        assert await is_kept(link)
        await _use_epochs_and_live_values(link)
        await _use_limits_and_usage(link)
        await _use_exchange(link)
        await _use_index(link)
        assert link.state == "ok"
        await link.aclose()
        assert admin.execute_command("ACL", "LOG") == []
        with (
            pytest.raises(redis_py.exceptions.NoPermissionError),
            redis_py.Redis.from_url(f"redis://dejavec:{password}@127.0.0.1:{server.instance.port}/0") as stranger,
        ):
            stranger.get("another-key")


async def _use_epochs_and_live_values(link: RedisLink) -> None:
    epochs, name = Epochs(link, SECRET), secrets.token_hex(4)
    assert await epochs.ensure(name) is not None
    await epochs.purge(name)
    record = SharedSettings(link, SECRET)
    assert await record.replace(await record.load(), record.seal(b"{}"))


async def _use_limits_and_usage(link: RedisLink) -> None:
    key, day, month = secrets.token_hex(8), Count("2026-11-26", 100), Count("2026-11", 1000)
    answer = await SharedLimits(link, "p").ask(Ask(1, key, "t:m", 60, 1, 0, 0, 0.0, 0, day, month))
    assert (answer.granted, answer.used_day) == (1, 1)
    store = UsageStore(link, "p")
    days = {f"2026-{day // 28 + 1:02}-{day % 28 + 1:02}": Counts(requests=1) for day in range(DAYS + MONTHS + 1)}
    await store.record(key, 1, days)
    assert len(await store.read(key)) == DAYS
    assert await store.present() == 1


async def _use_exchange(link: RedisLink) -> None:
    exchange, tag = RedisExchange(link, SECRET), secrets.token_hex(16)
    assert (await exchange.take_lease(tag))[0]
    last = await exchange.append(tag, [{"a": 1}])
    assert [event for _, event in await exchange.events_after(tag, "0-0")] == [{"a": 1}]
    assert await exchange.events_after(tag, last) == []
    assert await exchange.save(tag, Saved(last, {}), b"matrix")
    assert await exchange.load(tag) is not None
    assert await exchange.load_alignment(tag) == b"matrix"
    await exchange.forget(tag)


async def _use_index(link: RedisLink) -> None:
    """Made, filled, searched, emptied, grown to HNSW and searched again."""
    tag, rng = Scope(SECRET, "f", "n", ("1", "2")).tag, np.random.default_rng(7)
    index = RedisIndex(link, SECRET, secrets.token_hex(16), DIMENSIONS, hnsw_from=4, timeout_s=2.0)
    await index.check()
    assert index.kind == "flat"
    rows = rng.normal(size=(6, DIMENSIONS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = [Neighbour(secrets.token_bytes(16), row, row) for row in rows]
    await index.add([(tag, one) for one in near], 600)
    for kind in ("flat", "hnsw"):
        async with asyncio.timeout(120):
            while index.kind != kind or index.documents < len(near):
                await index.check()
                await asyncio.sleep(0.05)
        found = (await index.nearest(tag, rows, 3))[2]
        assert found[0].digest == near[2].digest
        assert [float(one.static_vector @ rows[2]) for one in found] == sorted(
            (float(one.static_vector @ rows[2]) for one in found), reverse=True
        )
        assert (await index.nearest(secrets.token_hex(16), rows[:1], 3))[0] == []
    await index.remove(near[2].digest)
    async with asyncio.timeout(120):
        while (await index.nearest(tag, rows, 3))[2][0].digest == near[2].digest:
            await asyncio.sleep(0.05)


# Valkey


async def test_valkey_is_named(valkey: RunningRedis) -> None:
    """By its own name and version, with the module."""
    link = RedisLink(valkey.url, timeout_s=2.0)
    facts = await find_facts(link)
    assert re.fullmatch(r"Valkey \d+\.\d+\.\d+ with RediSearch \d+\.\d+\.\d+", facts.described)
    assert facts.no_semantic_tier == ""
    await link.aclose()


async def test_both_tiers_answer_on_valkey(valkey: RunningRedis) -> None:
    """A whole gateway: exact and semantic hits."""
    engine = StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True)
    async with engine.running() as running:
        settings = {"redis_url": valkey.url, "semantic_mode": "on", "local_cache_mb": 0}
        async with running_gateway(
            running.url, admin_token="operator-of-these-tests", semantic_timeout_ms=2000, **settings
        ) as client:
            await _both_tiers_answer(client)


async def _both_tiers_answer(client: Any) -> None:
    await ready_with(client, BASE)
    assert await tier(client, BASE) == "exact"
    assert await tier(client, near(1)) == "semantic"


def test_valkey_keeps_its_data(tmp_path: Path) -> None:
    """What was fsynced is there after kill -9, as on the embedded server; so is the index."""
    with (
        running_redis(tmp_path, binaries=valkey_binaries()) as server,
        redis_py.Redis.from_url(server.url, protocol=2) as client,
    ):
        client.execute_command(*"FT.CREATE kept:idx ON HASH PREFIX 1 kept: SCHEMA a TAG".split())
        client.hset("kept:1", "a", "b")
        client.execute_command("WAITAOF", 1, 0, 2000)
        server.kill()
        server.restart()
        deadline = time.monotonic() + 30
        while client.execute_command("FT.SEARCH", "kept:idx", "@a:{b}")[0] != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# the semantic tier beside a cluster or a server that does not search


async def test_the_semantic_tier_on_a_url_of_its_own(
    redis: RunningRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Entries on one server that has no search module, index and what is learned on the other; the log says both."""
    binaries = locate()
    engine = StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True)
    without = type(binaries)(binaries.server, None)
    caplog.set_level("INFO")
    with running_redis(tmp_path, binaries=without) as plain:
        async with engine.running() as running:
            settings = {
                "redis_url": plain.url,
                "semantic_redis_url": redis.url,
                "semantic_mode": "on",
                "local_cache_mb": 0,
            }
            async with running_gateway(
                running.url, admin_token="operator-of-these-tests", semantic_timeout_ms=2000, **settings
            ) as client:
                await _both_tiers_answer(client)
        with redis_py.Redis.from_url(plain.url) as client:
            kinds = {key.split(b":")[1] for key in client.scan_iter("dv1:*")}
        assert {b"x", b"epoch", b"secret-check"} <= kinds <= {b"x", b"epoch", b"secret-check", b"processes", b"{k"}
    said = [record.getMessage() for record in caplog.records]
    assert any(re.search(r"^redis_url: .* without a search module: exact tier$", one) for one in said)
    assert any(re.search(r"^semantic_redis_url: .* with RediSearch .*: semantic tier$", one) for one in said)
    assert plain.instance.password not in caplog.text


def test_what_is_missing_for_semantic_hits_is_said() -> None:
    """With the remedy."""
    redis, search = {"redis_version": "8.2.3"}, {"search": (2, 10, 5)}
    cluster = RedisFacts(info=redis, modules=search, topology=Topology.CLUSTER, masters=3)
    assert cluster.described == "Redis 8.2.3 with RediSearch 2.10.5, cluster of 3 masters"
    assert "semantic_redis_url" in cluster.no_semantic_tier
    plain = RedisFacts(info={"redis_version": "7.2.4", "valkey_version": "9.1.2"}, modules={}, has_tls=True)
    assert plain.described == "Valkey 9.1.2 without a search module, TLS"
    assert "RediSearch" in plain.no_semantic_tier
    unseen = RedisFacts()
    assert unseen.described == "Redis of unknown version (its modules may not be asked)"
    assert unseen.no_semantic_tier == ""
