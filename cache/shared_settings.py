"""The shared settings document: values changed while running, which all gateways read and any may replace.

    dv1:live    the document, sealed (`cache.authentication`), without a TTL so that eviction under volatile-* never
                takes it

A replacement names what it replaces (checked in the same script), so of two at once the second has to look again, and
a document is never half of one and half of the other. What the document holds is `gateway.policies`'s business.
"""

from typing import Final

from redis.asyncio import Redis

from cache.authentication import SEAL_BYTES, Seal
from cache.errors import ChangeFailed
from cache.keys import LIVE_KEY
from cache.redis_link import RedisAway, RedisLink, script, script_on_disk

MAX_BYTES: Final = 262_144
MAX_STORED: Final = MAX_BYTES + SEAL_BYTES
WRITE_TIMEOUT_S: Final = 3.0

# What is stored: '' for nothing, the type's name for what is no string, one byte too many of what is too large.
STORED: Final = """
local kind = redis.call('TYPE', KEYS[1]).ok
local stored = kind
if kind == 'none' then stored = '' elseif kind == 'string' then stored = redis.call('GETRANGE', KEYS[1], 0, ARGV[1]) end
"""
LOAD: Final = STORED + "return stored"
REPLACE: Final = STORED + "if stored ~= ARGV[2] then return 0 end redis.call('SET', KEYS[1], ARGV[3]) return 1"


class SharedSettings:
    """The document, first as it lies in Redis, then as bytes."""

    def __init__(self, link: RedisLink, secret: bytes) -> None:
        self._link = link
        self._seal = Seal(secret, "live")

    async def load(self) -> bytes:
        """What is stored now; it may be anything, empty where there is nothing. Raises RedisAway."""
        content = await self._link.call(lambda redis: script(redis, LOAD, [LIVE_KEY], [MAX_STORED]), key=LIVE_KEY)
        if not isinstance(content, bytes):
            raise RedisAway("a reply that is no document")
        return content

    def open(self, stored: bytes) -> bytes | None:
        """The document in what `load` gave; None where no gateway with this key secret stored it."""
        return self._seal.open(LIVE_KEY, stored)

    def seal(self, document: bytes) -> bytes:
        """A document of at most `MAX_BYTES` as `replace` takes it."""
        assert len(document) <= MAX_BYTES
        return self._seal.seal(LIVE_KEY, document)

    async def replace(self, old: bytes, new: bytes) -> bool:
        """Store `new`, sealed, if `old` is still what `load` gives; on disk before this returns where Redis keeps an
        AOF.

        False when another gateway was faster; raises ChangeFailed when Redis did not confirm it.
        """

        async def write(redis: Redis) -> bool:
            is_replaced, is_on_disk = await script_on_disk(redis, REPLACE, [LIVE_KEY], [MAX_STORED, old, new])
            if not is_on_disk:
                raise TimeoutError
            return bool(is_replaced)

        try:
            return await self._link.call(write, timeout_s=WRITE_TIMEOUT_S, key=LIVE_KEY)
        except RedisAway as error:
            raise ChangeFailed("Redis did not confirm the change: look at what is in force, and try again") from error
