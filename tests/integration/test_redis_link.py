"""What counts as a failure of Redis, and what does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import hiredis
import pytest

from cache.epochs import Epochs
from cache.errors import PurgeFailed
from cache.exact import ExactTier
from cache.redis_facts import find_facts
from cache.redis_link import RedisAway, RedisLink, command
from cache.semantic.exchange import RedisExchange
from cache.semantic.index import NoSearchModule, RedisIndex
from cache.shared_settings import SharedSettings
from cache.usage import UsageStore
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


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[RedisLink]:
    """The way to a server with one reply to every look-up and script."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        while part := await reader.read(65_536):
            commands.feed(part)
            while words := commands.gets():
                writer.write(reply if words[0] in (b"MGET", b"EVAL", b"INFO") else b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        link = RedisLink(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_s=5.0)
        try:
            yield link
        finally:
            await link.aclose()


REPLIES = [b":1\r\n", b"+OK\r\n", b"*-1\r\n", b"*1\r\n:7\r\n", b"*2\r\n:7\r\n:7\r\n", b"*4\r\n" + 4 * b"*0\r\n"]


@pytest.mark.parametrize("reply", REPLIES)
async def test_replies_of_another_command_are_misses_and_no_epochs(reply: bytes) -> None:
    """As of a proxy that answers out of turn: nobody waits for what never comes, and no purge is confirmed."""
    async with answering(reply) as link, asyncio.timeout(30):
        tier = ExactTier(link, b"s" * 32, ttl_s=60, ttl_jitter=0.0, dtype="float32", max_queued_writes=9)
        for count in (1, 2, 3):
            assert await tier.get_many([b"d" * 16] * count, 4) == [None] * count
        epochs = Epochs(link, b"s" * 32)
        assert await epochs.ensure("one") is None
        with pytest.raises(PurgeFailed):
            await epochs.purge("one")


@pytest.mark.parametrize("reply", REPLIES)
async def test_what_cannot_be_read_is_a_failure_like_any_other(reply: bytes) -> None:
    """What a gateway asks at its start and for operators raises RedisAway, so that it starts and answers without."""
    for read in (find_facts, read_usage, processes, live_values, lease, events):
        async with answering(reply) as link:
            with suppress(RedisAway):
                await read(link)


async def read_usage(link: RedisLink) -> object:
    return await UsageStore(link, "p").read("0" * 16)


async def lease(link: RedisLink) -> object:
    return await RedisExchange(link, b"s" * 32).take_lease("0" * 32)


async def events(link: RedisLink) -> object:
    return await RedisExchange(link, b"s" * 32).events_after("0" * 32, "0-0")


async def processes(link: RedisLink) -> object:
    return await UsageStore(link, "p").present()


async def live_values(link: RedisLink) -> object:
    settings = SharedSettings(link, b"s" * 32)
    return settings.open(await settings.load())


async def test_redirections_are_followed_within_the_time_limit() -> None:
    """A cluster whose servers each take most of a call's time, and send it on."""
    connections: list[asyncio.Task[object]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.append(task)
        commands = hiredis.Reader()
        while part := await reader.read(65_536):
            commands.feed(part)
            while words := commands.gets():
                if words[0] == b"GET":
                    await asyncio.sleep(0.35)
                    writer.write(b"-MOVED 1 127.0.0.1:%d\r\n" % port)
                elif words[0] == b"CLUSTER":
                    writer.write(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % port)
                else:
                    writer.write(b"+OK\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        link = RedisLink(f"redis+cluster://127.0.0.1:{port}", timeout_s=0.5)
        await link.find()
        started = time.monotonic()
        with pytest.raises(RedisAway):
            await link.call(lambda redis: redis.get("k"), key=b"k")
        assert time.monotonic() - started < 1.2
        await link.aclose()
        await asyncio.gather(*connections)
