"""What counts as a failure of Redis, and what does not."""

import asyncio

import pytest

from cache.redis_link import RedisAway, RedisLink, command
from cache.semantic.index import NoSearchModule, RedisIndex
from tests.running_redis import RunningRedis


async def test_clients_that_leave_do_not_open_the_breaker(redis: RunningRedis) -> None:
    """A cancelled call proves nothing about Redis, however many there are in a row."""
    link = RedisLink(redis.url, timeout_s=5.0)
    for _ in range(10):
        call = asyncio.create_task(link.call(lambda one: command(one, "BLPOP", "nothing-here", 5)))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert link.state == "ok"
    assert await link.call(lambda one: one.ping())
    await link.aclose()


async def test_calls_that_take_too_long_open_it(redis: RunningRedis) -> None:
    """Three in a row."""
    link = RedisLink(redis.url, timeout_s=0.05)
    for _ in range(3):
        with pytest.raises(RedisAway):
            await link.call(lambda one: command(one, "BLPOP", "nothing-here", 5))
    assert link.state == "away"
    await link.aclose()


async def test_a_redis_without_search_is_no_fault(redis: RunningRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer to the index's check is an answer: no error is counted, the breaker stays closed."""
    link = RedisLink(redis.url, timeout_s=5.0)
    monkeypatch.setattr("cache.semantic.index.INFO_COMMAND", "FT.NOSUCHINFO")
    index = RedisIndex(link, b"s" * 32, "0" * 32, 4)
    for _ in range(5):
        with pytest.raises(NoSearchModule):
            await index.check()
    assert not index.is_usable
    assert link.state == "ok"
    await link.aclose()


async def test_a_cancellation_that_a_library_hides_is_one(redis: RunningRedis) -> None:
    """An error of another kind in its place, or none at all: the task ends, the breaker stays closed."""
    link = RedisLink(redis.url, timeout_s=5.0)

    async def hides(_: object) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    for _ in range(5):
        call = asyncio.create_task(link.call(hides))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert link.state == "ok"
    await link.aclose()
