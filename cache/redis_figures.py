"""Redis' own figures for metrics: its memory and how much it evicts."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cache.redis_link import RedisLink

TIMEOUT_S = 1.0  # nobody waits for it


@dataclass(frozen=True, slots=True)
class RedisFigures:
    """`memory_max_bytes` is 0 where there is no limit; `evicted_keys`: since the server's start."""

    memory_bytes: int
    memory_max_bytes: int
    evicted_keys: int


async def read_figures(link: RedisLink) -> RedisFigures | None:
    """Ask for them; None where this user may not. Raises RedisAway."""

    async def ask(redis: Redis) -> dict[str, Any] | None:
        try:
            return {**await redis.info("memory"), **await redis.info("stats")}
        except ResponseError:  # an answer, and no failure of Redis
            return None

    found = await link.call(ask, timeout_s=TIMEOUT_S)
    if found is None:
        return None
    return RedisFigures(*(int(found.get(name, 0)) for name in ("used_memory", "maxmemory", "evicted_keys")))
