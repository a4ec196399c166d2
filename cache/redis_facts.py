"""What is behind a RedisLink, and what follows from it: for the log, the start page, `/ready` and `dejavec doctor`.

facts = await find_facts(link)      # facts.described, facts.no_semantic_tier
"""

from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from cache.redis_link import RedisLink, command
from cache.redis_url import Topology

FIND_TIMEOUT_S: Final = 1.0
SEARCH_MODULES: Final = ("search", "searchlight")


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """`version` and `search` are empty where the server may not be asked; `search_version` is 21005 for 2.10.5."""

    product: str  # "Redis" or "Valkey"
    version: str
    topology: Topology
    masters: int
    has_search: bool | None  # None: it may not be asked
    search_version: int
    has_tls: bool

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
        if not self.has_search:
            return "without a search module" if self.has_search is False else "(its modules may not be asked)"
        if 20_000 <= self.search_version < 1_000_000:
            major, minor, patch = self.search_version // 10_000, self.search_version // 100 % 100, self.search_version
            return f"with RediSearch {major}.{minor}.{patch % 100}"
        return f"with search module {self.search_version}"


async def find_facts(link: RedisLink) -> RedisFacts:
    """Ask what is there. Raises RedisAway."""
    await link.find()
    hello: dict[str, Any] = {}
    found: dict[str, Any] = await link.call(_info, FIND_TIMEOUT_S)
    if not found:
        hello = await link.call(_hello, FIND_TIMEOUT_S)
    modules = found.get("modules", hello.get("modules"))
    versions = [int(one.get("ver", 0)) for one in modules or () if one.get("name") in SEARCH_MODULES]
    is_valkey = "valkey_version" in found or "valkey" in str(found.get("server_name", hello.get("server", "")))
    return RedisFacts(
        product="Valkey" if is_valkey else "Redis",
        version=str(found.get("valkey_version") or found.get("redis_version") or hello.get("version", "")),
        topology=link.topology,
        masters=len(link.servers),
        has_search=None if modules is None else bool(versions),
        search_version=max(versions, default=0),
        has_tls=link.has_tls,
    )


async def _info(redis: Redis) -> dict[str, Any]:
    """INFO's sections; nothing where that is not allowed."""
    try:
        return {**await command(redis, "INFO", "server"), "modules": (), **await command(redis, "INFO", "modules")}
    except ResponseError:
        return {}


async def _hello(redis: Redis) -> dict[str, Any]:
    """HELLO's reply, which any user may have; nothing before Redis 6."""
    try:
        reply = _pairs(await command(redis, b"HELLO"))
    except ResponseError:
        return {}
    return {**reply, "modules": [_pairs(module) for module in reply.get("modules", ())]}


def _pairs(flat: list[Any]) -> dict[str, Any]:
    texts = [str(one, "utf-8", "replace") if isinstance(one, bytes) else one for one in flat]
    return dict(zip(texts[::2], texts[1::2], strict=False))
