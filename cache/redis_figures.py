"""Redis' own figures for metrics and the console: memory, keys, evictions; of a cluster, of all its servers.

Asked beside the breakers: looking opens none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cache.redis_info import RedisInfo, ask_info
from cache.redis_link import RedisLink

TIMEOUT_S: Final = 1.0  # nobody waits for it


@dataclass(frozen=True, slots=True)
class RedisFigures:
    """Sums over the servers that answered. `memory_max_bytes` is 0 where one of them has no limit; evicted and expired
    keys count since each server's start. `fullest_*`: of the server that has the least room, by share.
    """

    server: str  # "Valkey 9.1.2"; empty where it was not told
    servers: int
    memory_bytes: int
    memory_max_bytes: int
    fullest_memory_bytes: int
    fullest_memory_max_bytes: int
    keys: int
    evicted_keys: int
    expired_keys: int

    @property
    def fullest_share(self) -> float:
        """The share of its maxmemory that the fullest server uses; 0 where it has no limit."""
        return _share(self.fullest_memory_bytes, self.fullest_memory_max_bytes)


async def read_figures(link: RedisLink) -> RedisFigures | None:
    """Ask every server that is in use and not away; None where none tells. Raises nothing."""
    return added_up([told for told in await link.look(ask_info, TIMEOUT_S) if told.info])


def added_up(told: Sequence[RedisInfo]) -> RedisFigures | None:
    """The figures of servers together; None where there are none."""
    if not told:
        return None
    memory = [(_whole(one, "used_memory"), _whole(one, "maxmemory")) for one in told]
    fullest = max(memory, key=lambda one: (_share(*one), one[0]))
    is_limited = all(limit for _, limit in memory)
    return RedisFigures(
        server=told[0].server,
        servers=len(told),
        memory_bytes=sum(used for used, _ in memory),
        memory_max_bytes=sum(limit for _, limit in memory) if is_limited else 0,
        fullest_memory_bytes=fullest[0],
        fullest_memory_max_bytes=fullest[1],
        keys=sum(one.keys for one in told),
        evicted_keys=sum(_whole(one, "evicted_keys") for one in told),
        expired_keys=sum(_whole(one, "expired_keys") for one in told),
    )


def _share(used: int, limit: int) -> float:
    return used / limit if limit else 0.0


def _whole(told: RedisInfo, name: str) -> int:
    return int(told.number(name) or 0)
