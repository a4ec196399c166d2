"""Epochs over a real Redis: what is no gateway's epoch is none, a purge moves on whatever the clock says."""

import secrets
import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from cache.epochs import ADVANCE, Epochs, new_epoch
from cache.errors import PurgeFailed
from cache.keys import ALL_NAMESPACES, SECRET_CHECK_KEY, epoch_key
from cache.redis_link import RedisLink
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine

SECRET = b"s" * 32
BEARER = {"authorization": "Bearer operator-of-these-tests"}
FAR = "999999999999999-" + 16 * "f"

Put = Callable[[Redis, bytes], Awaitable[object]]


async def _another_type(redis: Redis, key: bytes) -> None:
    await redis.delete(key)
    await redis.rpush(key, "x")  # type: ignore[misc]


DAMAGE: dict[str, Put] = {
    "nothing": lambda redis, key: redis.delete(key),
    "empty": lambda redis, key: redis.set(key, b""),
    "garbage": lambda redis, key: redis.set(key, b"\xff{nonsense"),
    "words": lambda redis, key: redis.set(key, b"zzz-not-an-epoch"),
    "long": lambda redis, key: redis.set(key, b"9" * 100_000),
    "far future": lambda redis, key: redis.set(key, FAR),
    "far future with a MAC of its own": lambda redis, key: redis.set(key, FAR + "-" + 32 * "f"),
    "of before": lambda redis, key: redis.set(key, new_epoch()),
    "list": _another_type,
}


@pytest.fixture(params=["redis", "valkey"])
def redis(request: pytest.FixtureRequest, redis: RunningRedis) -> RunningRedis:
    """Both servers."""
    return redis if request.param == "redis" else request.getfixturevalue("valkey")


@pytest.fixture
def name() -> str:
    return secrets.token_hex(8)


async def own(epochs: Epochs, name: str) -> str:
    found = await epochs.ensure(name)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_is_no_epoch_moves_nobody(link: RedisLink, name: str, damage: str) -> None:
    """A gateway that knows the epoch puts it back; one that starts then gets it, or makes one; both purge."""
    old, key = Epochs(link, SECRET), epoch_key(name)
    before = await own(old, name)
    await DAMAGE[damage](link.redis, key)
    assert await own(old, name) == before
    assert await own(Epochs(link, SECRET), name) == before
    await DAMAGE[damage](link.redis, key)
    new = Epochs(link, SECRET)
    made = await own(new, name)
    assert made > before
    await DAMAGE[damage](link.redis, key)
    purged, _ = await new.purge(name)
    assert purged > made
    assert await own(old, name) == purged == await own(new, name)


async def test_an_epoch_of_another_namespace_is_none(link: RedisLink, name: str) -> None:
    """Copied over it could bring back what was purged here, or make two namespaces move together."""
    epochs, other = Epochs(link, SECRET), secrets.token_hex(8)
    before = await own(epochs, name)
    await epochs.purge(other)
    await link.redis.copy(epoch_key(other).decode(), epoch_key(name).decode(), replace=True)
    assert await own(epochs, name) == before


async def test_an_older_epoch_gives_way(link: RedisLink, name: str) -> None:
    """While one gateway remembers the newer one."""
    epochs = Epochs(link, SECRET)
    await own(epochs, name)
    older = await link.redis.get(epoch_key(name))
    purged, _ = await epochs.purge(name)
    await link.redis.set(epoch_key(name), older)
    assert await own(epochs, name) == purged
    assert await own(Epochs(link, SECRET), name) == purged


@pytest.mark.parametrize("hours", [-10_000, -1, 10_000])
async def test_a_purge_moves_on_under_a_wrong_clock(
    link: RedisLink, name: str, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A clock that is wrong, and one that was: all gateways follow, and purge from there on."""
    one, two = Epochs(link, SECRET), Epochs(link, SECRET)
    before, right = await own(one, name), time.time_ns
    monkeypatch.setattr("cache.epochs.time.time_ns", lambda: right() + hours * 3_600_000_000_000)
    first, _ = await one.purge(name)
    assert before < first == await own(two, name)
    monkeypatch.undo()
    second, _ = await two.purge(name)
    assert first < second == await own(one, name) == await own(Epochs(link, SECRET), name)


async def test_a_purge_that_is_overwritten_is_not_confirmed(
    link: RedisLink, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who writes something else there all the time gets no confirmation, and no fault."""
    epochs = Epochs(link, SECRET)
    await own(epochs, name)
    spoiled = "redis.call('SET', KEYS[1], 'zz' .. math.random(1000000))" + ADVANCE
    monkeypatch.setattr("cache.epochs.ADVANCE", spoiled)
    with pytest.raises(PurgeFailed):
        await epochs.purge(name)
    assert await epochs.ensure(name) is None
    monkeypatch.undo()
    assert await own(epochs, name) == (await epochs.ensure(name) or ("", ""))[1]


async def test_a_secret_check_of_another_type_is_made_anew(redis: RunningRedis) -> None:
    """It would keep every gateway that starts from its epochs."""
    link = RedisLink(redis.url, timeout_s=2.0)
    kept = await link.redis.get(SECRET_CHECK_KEY)
    await _another_type(link.redis, SECRET_CHECK_KEY)
    epochs = Epochs(link, SECRET)
    assert await epochs.ensure("a") is not None
    assert not epochs.secret_differs
    await link.redis.delete(SECRET_CHECK_KEY)
    if kept is not None:
        await link.redis.set(SECRET_CHECK_KEY, kept)
    await link.aclose()


async def test_purging_over_http(engine: StandInEngine, redis: RunningRedis) -> None:
    """200 whatever lies under the epoch's key, and what was stored before is not served after it."""
    keys = {"key-of-these-tests": {"namespace": (name := secrets.token_hex(8))}}
    settings = {"redis_url": redis.url, "admin_token": "operator-of-these-tests", "api_keys": keys, "local_cache_mb": 0}
    async with running_gateway(engine.url, **settings) as client, Redis.from_url(redis.url) as direct:
        await until_ready(client)

        async def tier() -> str:
            body = {"model": "tiny", "input": "a"}
            reply = await client.post(
                "/v1/embeddings", json=body, headers={"authorization": "Bearer key-of-these-tests"}
            )
            return str(reply.headers["x-cache"])

        for put in DAMAGE.values():
            while await tier() != "exact":
                pass
            await put(direct, epoch_key(name))
            reply = await client.post("/admin/purge", json={"namespace": name}, headers=BEARER)
            assert (reply.status_code, reply.json()["on_disk"]) == (200, True)
            assert await tier() == "miss"
        while await tier() != "exact":
            pass
        assert (await client.post("/admin/purge", json={"all": True}, headers=BEARER)).status_code == 200
        assert await tier() == "miss"


async def test_a_purge_that_is_not_on_disk_says_so(link: RedisLink, name: str) -> None:
    """It is in force all the same, as where Redis' clock was set back and it does not sync until that has caught up."""
    epochs = Epochs(link, SECRET)
    before = await own(epochs, name)
    await link.redis.config_set("appendfsync", "no")
    try:
        purged, is_on_disk = await epochs.purge(name)
    finally:
        await link.redis.config_set("appendfsync", "everysec")
    assert not is_on_disk
    assert before < purged == await own(Epochs(link, SECRET), name)
    assert (await epochs.purge(ALL_NAMESPACES))[1]
