"""The pool of connections to Redis: nobody gets another caller's reply, whatever became of a connection before."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cache.redis_link import RedisAway, RedisLink, exchange
from tests.running_redis import RunningRedis


@pytest.fixture
async def link(redis: RunningRedis) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis.url, timeout_s=10.0, max_connections=2)
    yield link
    await link.aclose()


async def echo(link: RedisLink, word: bytes) -> Any:
    return await link.call(lambda one: exchange(one, b"ECHO", word))


async def connection(one: Redis) -> Any:
    return await exchange(one, b"CLIENT", b"ID")


async def test_a_connection_is_used_again(link: RedisLink) -> None:
    """One after the other needs one."""
    assert len({await link.call(connection) for _ in range(5)}) == 1


async def test_more_callers_than_connections_all_get_their_own_reply(link: RedisLink) -> None:
    """Who finds none free waits for one."""
    words = [b"%d" % number for number in range(200)]
    assert await asyncio.gather(*(echo(link, word) for word in words)) == words
    assert len({await link.call(connection) for _ in range(5)}) == 1


async def test_a_caller_that_waits_too_long_for_a_connection_is_told(redis: RunningRedis) -> None:
    """Both are held; the third gives up within its limit, and nobody is kept from going on afterwards."""
    link = RedisLink(redis.url, timeout_s=0.2, max_connections=2)
    held = [
        asyncio.create_task(link.call(lambda one: exchange(one, b"BLPOP", b"nothing-here", 3), timeout_s=30))
        for _ in range(2)
    ]
    await asyncio.sleep(0.1)
    with pytest.raises(RedisAway):
        await echo(link, b"x")
    await asyncio.gather(*held)
    assert await link.call(lambda one: exchange(one, b"ECHO", b"x"), timeout_s=10) == b"x"
    await link.aclose()


async def test_who_leaves_within_a_command_leaves_no_reply_behind(link: RedisLink) -> None:
    """The connection is closed: its reply would be taken for the next caller's."""
    for _ in range(6):
        gone = asyncio.create_task(link.call(lambda one: exchange(one, b"BLPOP", b"nothing-here", 1)))
        await asyncio.sleep(0.02)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await echo(link, b"mine") == b"mine"


async def test_a_connection_that_the_server_closed_is_replaced(link: RedisLink, redis: RunningRedis) -> None:
    """Without an error for anybody."""
    number = await link.call(connection)
    async with Redis.from_url(redis.url) as direct:
        assert await direct.execute_command("CLIENT", "KILL", "ID", number) == 1  # type: ignore[no-untyped-call]
    await asyncio.sleep(0.05)  # until the end of the stream is read
    assert await link.call(connection) != number
    assert link.state == "ok"


async def test_a_reply_that_nobody_read_is_never_anothers(link: RedisLink) -> None:
    """A connection that was given back with one is replaced."""

    async def forgets(one: Redis) -> None:
        pool = one.connection_pool
        held = await pool.get_connection()  # type: ignore[no-untyped-call]
        await held.send_command("ECHO", "old")
        await pool.release(held)

    await link.call(forgets)
    await asyncio.sleep(0.05)
    assert await echo(link, b"new") == b"new"


async def test_an_error_reply_is_raised_and_the_connection_kept(link: RedisLink) -> None:
    """It is an answer like another."""
    number = await link.call(connection)

    async def wrong(one: Redis) -> str:
        with pytest.raises(ResponseError, match="unknown command"):
            await exchange(one, b"NO-SUCH-COMMAND", 1, 2.5, "text")
        return "answered"

    assert await link.call(wrong) == "answered"
    assert await link.call(connection) == number
