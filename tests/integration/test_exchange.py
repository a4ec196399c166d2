"""A partition's stream, lease and state, over a real Redis, where something else may lie under their keys."""

import secrets
from collections.abc import Awaitable, Callable

import pytest

from cache.authentication import Seal
from cache.keys import ALIGNMENT_PREFIX, LABELS_PREFIX, LEASE_PREFIX, PARTITION_PREFIX
from cache.metrics import REFUSED
from cache.redis_link import RedisAway, RedisLink
from cache.semantic.exchange import LEASE_MS, RedisExchange, Saved
from tests.running_redis import RunningRedis

SECRET = b"s" * 32
GENUINE = b'{"last_event": "1-0", "state": {}, "saved_at": 1}'


@pytest.fixture(params=["redis", "valkey"])
def redis(request: pytest.FixtureRequest, redis: RunningRedis) -> RunningRedis:
    """Both servers."""
    return redis if request.param == "redis" else request.getfixturevalue("valkey")


@pytest.fixture
def tag() -> str:
    return secrets.token_hex(16)


async def test_one_writer_at_a_time(link: RedisLink, tag: str) -> None:
    """The lease is its holder's until it ends; nobody else may store the state."""
    first, second = RedisExchange(link, SECRET), RedisExchange(link, SECRET)
    assert await first.take_lease(tag) == (True, 1)
    assert await second.take_lease(tag) == (False, 2)
    assert await first.take_lease(tag) == (True, 2)
    assert not await second.save(tag, Saved("1-0", {}))
    assert await first.save(tag, Saved("1-0", {"a": 1}))
    assert await second.load(tag) == Saved("1-0", {"a": 1})


@pytest.mark.parametrize("damage", ["no end", "a far end", "another type"])
async def test_what_is_no_lease_keeps_nobody_from_writing(link: RedisLink, tag: str, damage: str) -> None:
    """A lease that never ends, or ends later than any lease does, would leave the labels unread for ever."""
    key = LEASE_PREFIX + tag.encode()
    if damage == "another type":
        await link.redis.rpush(key, "x")  # type: ignore[misc]
    else:
        await link.redis.set(key, "x", px=None if damage == "no end" else 10 * LEASE_MS)
    log = RedisExchange(link, SECRET)
    assert (await log.take_lease(tag))[0]
    assert await log.save(tag, Saved("1-0", {}))


@pytest.mark.parametrize("last_event", ["", "1", "x-0", "1-0 + COUNT", None, "9" * 30 + "-0"])
async def test_a_state_without_a_last_event_is_none(link: RedisLink, tag: str, last_event: object) -> None:
    """It could not be gone on from."""
    log = RedisExchange(link, SECRET)
    await log.take_lease(tag)
    await log.save(tag, Saved(last_event, {"a": 1}))  # type: ignore[arg-type]
    assert await log.load(tag) is None


async def test_a_state_that_is_none_is_none(link: RedisLink, tag: str) -> None:
    """Whatever lies there."""
    log = RedisExchange(link, SECRET)
    seal = Seal(SECRET, "state")
    for content in (b"", b"[]", b"{", b'{"last_event": "1-0"}', b'{"last_event": "1-0", "state": 5}', GENUINE):
        await link.redis.set(PARTITION_PREFIX + tag.encode(), content)
        assert await log.load(tag) is None
        await link.redis.set(PARTITION_PREFIX + tag.encode(), seal.seal(tag.encode(), content))
        assert (await log.load(tag) is None) == (content is not GENUINE)


async def test_what_another_partition_holds_is_not_there(link: RedisLink, tag: str) -> None:
    """State, matrix and events, copied over from another tag: each is refused and counted."""
    log, other = RedisExchange(link, SECRET), secrets.token_hex(16)
    await log.take_lease(other)
    await log.save(other, Saved("1-0", {"a": 1}), b"matrix")
    await log.append(other, [{"n": 1}])
    assert await log.load(other) == Saved("1-0", {"a": 1})
    assert await log.load_alignment(other) == b"matrix"
    kinds = ("state", "matrix", "event")
    before = [REFUSED.labels(kind, "mac")._value.get() for kind in kinds]
    for prefix in (PARTITION_PREFIX, ALIGNMENT_PREFIX, LABELS_PREFIX):
        assert await link.redis.copy((prefix + other.encode()).decode(), (prefix + tag.encode()).decode())
    assert await log.load(tag) is None
    assert await log.load_alignment(tag) == b""
    assert [event for _, event in await log.events_after(tag, "0-0")] == [{}]
    assert [REFUSED.labels(kind, "mac")._value.get() for kind in kinds] == [count + 1 for count in before]


async def test_what_is_of_another_type_is_gone_the_next_time(link: RedisLink, tag: str) -> None:
    """Labels, state or matrix: whatever else lies under their keys stops a partition once, not for ever."""
    log = RedisExchange(link, SECRET)
    asked: dict[bytes, Callable[[], Awaitable[object]]] = {
        LABELS_PREFIX: lambda: log.append(tag, [{"k": "empty", "n": 1}]),
        PARTITION_PREFIX: lambda: log.load(tag),
        ALIGNMENT_PREFIX: lambda: log.load_alignment(tag),
    }
    for prefix, ask in asked.items():
        await link.redis.delete(prefix + tag.encode())
        await link.redis.hset(prefix + tag.encode(), "a", "b")  # type: ignore[misc]
        with pytest.raises(RedisAway):
            await ask()
        await ask()
    assert [event for _, event in await log.events_after(tag, "0-0")] == [{"k": "empty", "n": 1}]


async def test_events_come_once_and_in_order(link: RedisLink, tag: str) -> None:
    """From the last one seen on; what somebody else put there is an empty event."""
    log = RedisExchange(link, SECRET)
    assert await log.events_after(tag, "0-0") == []
    first = await log.append(tag, [{"n": 1}])
    await link.redis.xadd(LABELS_PREFIX + tag.encode(), {"other": "thing"})
    last = await log.append(tag, [{"n": 2}])
    assert [event for _, event in await log.events_after(tag, "0-0")] == [{"n": 1}, {}, {"n": 2}]
    assert [event for _, event in await log.events_after(tag, first)] == [{}, {"n": 2}]
    assert await log.events_after(tag, last) == []


async def test_a_stream_that_began_anew_under_a_clock_put_back_is_read(link: RedisLink, tag: str) -> None:
    """Otherwise no violation would be counted until the clock has caught up."""
    log = RedisExchange(link, SECRET)
    last = await log.append(tag, [{"n": 1}])
    assert [event for _, event in await log.events_after(tag, "9999999999999-0")] == [{"n": 1}]
    assert await log.events_after(tag, last) == []
