"""What all gateways of a partition share: a bounded stream of events, one leased writer, one state, one matrix.

`Exchange` is what `cache.semantic.sync` needs; `RedisExchange` keeps it in Redis:

    dv1:l:<tag>   STREAM of events, at most about `MAX_EVENTS`; any gateway appends
    dv1:w:<tag>   the lease: which gateway folds events into the state now; lost `LEASE_MS` after its last renewal
    dv1:g:<tag>   ZSET of the gateways that exchange now, by when they last did; they share the error budget
    dv1:p:<tag>   the state, JSON without a TTL so that eviction under volatile-* never takes it
    dv1:a:<tag>   the alignment matrix that belongs to the state, likewise; the state names its bytes

Events, state and matrix are sealed under the tag (`cache.authentication`): what no gateway stored is not there. Lease
and presence are not: who overwrites them can stop labels from being counted, or have gateways share the error budget by
a wrong number, which the violations they find make up for.

The state names the last event in it, so a new writer goes on where the old one stopped and no event counts twice. A
write counts only while the lease is held (checked in the same script).
"""

import re
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cache.authentication import Seal
from cache.keys import ALIGNMENT_PREFIX, LABELS_PREFIX, LEASE_PREFIX, PARTITION_PREFIX, PRESENT_PREFIX
from cache.redis_link import RedisLink, script
from cache.semantic.events import Event

T = TypeVar("T")

LEASE_MS: Final = 5000
PRESENT_MS: Final = 3000  # a gateway that has not exchanged for so long is not counted
ALIGNMENT_TIMEOUT_S: Final = 2.0  # a matrix is about 400 kB
MAX_EVENTS: Final = 5000
EVENTS_PER_READ: Final = 500

OF_PARTITION: Final = (LABELS_PREFIX, PARTITION_PREFIX, ALIGNMENT_PREFIX, LEASE_PREFIX, PRESENT_PREFIX)
EVENT_ID: Final = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")

# A lease of another type, without an end, or with one that a clock put back has moved away, counts as none.
LEASE: Final = """
local holder = redis.pcall('GET', KEYS[1])
local left_ms = redis.call('PTTL', KEYS[1])
local is_held = type(holder) == 'string' and left_ms > 0 and left_ms <= tonumber(ARGV[2])
local is_writer = not is_held or holder == ARGV[1]
if is_writer then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
if redis.call('TYPE', KEYS[2]).ok ~= 'zset' then redis.call('DEL', KEYS[2]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {is_writer and 1 or 0, redis.call('ZCARD', KEYS[2])}
"""

# The newest event is never trimmed: where it is not the last one seen, and nothing is newer, the stream is another.
EVENTS: Final = """
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
if #found > 0 then return found end
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if newest and newest[1] ~= ARGV[1] then return redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[2]) end
return {}
"""

SAVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[3], ARGV[3]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Saved:
    """A stored state, the id of the last event that is in it, and when it was saved: ms that only move forward."""

    last_event: str
    state: dict[str, Any]
    saved_at: int = 0


class Exchange(Protocol):
    """Events and states of partitions, by their tags. Every method raises RedisAway; see `RedisExchange`."""

    @property
    def is_available(self) -> bool:
        """Whether trying another partition now makes sense."""

    async def append(self, tag: str, events: Sequence[Event]) -> str: ...

    async def load(self, tag: str) -> "Saved | None": ...

    async def take_lease(self, tag: str) -> tuple[bool, int]: ...

    async def events_after(self, tag: str, last_event: str) -> list[tuple[str, Event]]: ...

    async def load_alignment(self, tag: str) -> bytes: ...

    async def save(self, tag: str, saved: "Saved", alignment: bytes = b"") -> bool: ...

    async def forget(self, tag: str) -> None: ...


class RedisExchange:
    """Events and states of partitions, by their tags. Every method raises RedisAway."""

    def __init__(self, link: RedisLink, secret: bytes) -> None:
        self._link = link
        self._state, self._matrix, self._event = (Seal(secret, kind) for kind in ("state", "matrix", "event"))
        self._writer = secrets.token_hex(8).encode()

    @property
    def is_available(self) -> bool:
        """Whether Redis answers."""
        return self._link.state == "ok"

    async def append(self, tag: str, events: Sequence[Event]) -> str:
        """Add events; returns the last one's id."""
        key = LABELS_PREFIX + tag.encode()

        async def add(redis: Redis) -> str:
            async with redis.pipeline(transaction=False) as commands:
                for event in events:
                    sealed = self._event.seal(tag.encode(), orjson.dumps(event))
                    commands.xadd(key, {"e": sealed}, maxlen=MAX_EVENTS, approximate=True)
                return str((await commands.execute())[-1], "ascii")

        return await self._link.call(lambda redis: _of_own_type(redis, key, add(redis)))

    async def load(self, tag: str) -> Saved | None:
        """The stored state; None when there is none, or none that can be read."""
        key = PARTITION_PREFIX + tag.encode()
        content: bytes | None = await self._link.call(lambda redis: _of_own_type(redis, key, redis.get(key)))  # type: ignore[arg-type]
        opened = self._state.open(tag.encode(), content) if content is not None else None
        try:
            saved = orjson.loads(opened or b"")
            last_event, state = saved["last_event"], dict(saved["state"])
            return Saved(last_event, state, int(saved["saved_at"])) if EVENT_ID.fullmatch(last_event) else None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    async def take_lease(self, tag: str) -> tuple[bool, int]:
        """Become, or stay, this partition's writer (False while another is), and how many gateways exchange now."""
        keys = [prefix + tag.encode() for prefix in (LEASE_PREFIX, PRESENT_PREFIX)]
        words = [self._writer, LEASE_MS, PRESENT_MS]

        async def take(redis: Redis) -> tuple[bool, int]:
            is_writer, gateways = await script(redis, LEASE, keys, words)
            return bool(is_writer), int(gateways)

        return await self._link.call(take)

    async def events_after(self, tag: str, last_event: str) -> list[tuple[str, Event]]:
        """The next events, oldest first, at most `EVENTS_PER_READ`; an entry without one is an empty event.

        From the oldest on where the stream has begun anew, since the clock that its ids are taken from may be behind.
        """
        key = LABELS_PREFIX + tag.encode()
        words = [last_event, EVENTS_PER_READ]

        async def read(redis: Redis) -> list[tuple[str, Event]]:
            entries = await script(redis, EVENTS, [key], words)
            return [(str(event_id, "ascii"), self._event_in(tag, fields)) for event_id, fields in entries]

        return await self._link.call(lambda redis: _of_own_type(redis, key, read(redis)))

    async def load_alignment(self, tag: str) -> bytes:
        """The stored matrix; empty when there is none."""
        key = ALIGNMENT_PREFIX + tag.encode()
        content: bytes | None = await self._link.call(
            lambda redis: _of_own_type(redis, key, redis.get(key)),  # type: ignore[arg-type]
            timeout_s=ALIGNMENT_TIMEOUT_S,
        )
        return (self._matrix.open(tag.encode(), content) if content is not None else None) or b""

    async def save(self, tag: str, saved: Saved, alignment: bytes = b"") -> bool:
        """Store the state, and with it a new matrix where one is given, if the lease is still ours."""
        content = orjson.dumps({"last_event": saved.last_event, "state": saved.state, "saved_at": saved.saved_at})
        keys = [prefix + tag.encode() for prefix in (LEASE_PREFIX, PARTITION_PREFIX, ALIGNMENT_PREFIX)]
        sealed = self._matrix.seal(tag.encode(), alignment) if alignment else b""
        words = [self._writer, self._state.seal(tag.encode(), content), sealed]
        timeout_s = ALIGNMENT_TIMEOUT_S if alignment else None
        return bool(await self._link.call(lambda redis: script(redis, SAVE, keys, words), timeout_s=timeout_s))

    async def forget(self, tag: str) -> None:
        """Drop everything kept of a partition that a purge has ended, once every gateway has left it."""
        keys = [prefix + tag.encode() for prefix in OF_PARTITION]
        await self._link.call(lambda redis: redis.unlink(*keys))

    def _event_in(self, tag: str, fields: Any) -> Event:
        """An entry's event; empty when it holds none that a gateway put there for this tag."""
        try:
            sealed = dict(zip(fields[::2], fields[1::2], strict=False))[b"e"]
        except (KeyError, TypeError):
            return {}
        opened = self._event.open(tag.encode(), sealed)
        event = orjson.loads(opened) if opened is not None else {}
        return event if isinstance(event, dict) else {}


async def _of_own_type(redis: Redis, key: bytes, answer: Awaitable[T]) -> T:
    """Redis' answer about a key of ours; a value of another type under it is dropped for the next time."""
    try:
        return await answer
    except ResponseError as error:
        if "WRONGTYPE" in str(error):
            await redis.unlink(key)
        raise
