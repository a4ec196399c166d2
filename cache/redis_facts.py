"""What is behind a RedisLink, and what follows from it: for the log, the start page, `/ready` and `dejavec doctor`.

facts = await find_facts(link)      # facts.described, facts.no_semantic_tier
"""

from dataclasses import dataclass
from typing import Final

from cache.redis_info import RedisInfo, ask_server
from cache.redis_link import RedisLink
from cache.redis_url import Topology

FIND_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisFacts(RedisInfo):
    """What a server told of itself, of a cluster any one, and how servers belong together."""

    topology: Topology = Topology.SINGLE
    masters: int = 1
    has_tls: bool = False

    @property
    def described(self) -> str:
        """In words: "Valkey 9.1.2 with RediSearch 2.10.5, cluster of 3 masters, TLS"."""
        parts = [f"{self.product} {self.version or 'of unknown version'} {self._search}"]
        if self.topology is Topology.CLUSTER:
            parts.append(f"cluster of {self.masters} masters")
        elif self.topology is Topology.SENTINEL:
            parts.append("master named by Sentinels")
        if self.has_tls:
            parts.append("TLS")
        return ", ".join(parts)

    @property
    def no_semantic_tier(self) -> str:
        """Why there can be no semantic tier here, and the remedy; empty where there can be one."""
        if self.topology is Topology.CLUSTER:
            return "a cluster holds no index of ours; set semantic_redis_url to a single server with a search module"
        if self.has_search is False:
            return "there is no search module; load RediSearch, or set semantic_redis_url to a server that has it"
        return ""

    @property
    def _search(self) -> str:
        if self.has_search:
            return f"with {self.search}"
        return "(its modules may not be asked)" if self.has_search is None else "without a search module"


async def find_facts(link: RedisLink) -> RedisFacts:
    """Ask what is there. Raises RedisAway."""
    await link.find()
    told = await link.call(ask_server, FIND_TIMEOUT_S)
    return RedisFacts(
        info=told.info,
        modules=told.modules,
        refused=told.refused,
        topology=link.topology,
        masters=len(link.servers),
        has_tls=link.has_tls,
    )
