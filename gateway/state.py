"""Everything a running gateway holds, opened in the lifespan and handed to the routes."""

from dataclasses import dataclass

from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.local import LocalCache
from cache.redis_link import RedisLink
from gateway.models import Models
from gateway.policies import Policies
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants
from gateway.usage import Usage


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one gateway worker."""

    settings: GatewaySettings
    models: Models
    epochs: Epochs
    local: LocalCache
    exact: ExactTier | None
    link: RedisLink | None
    semantic_link: RedisLink | None  # of the semantic tier; the same as `link` unless semantic_redis_url is set
    tenants: Tenants
    policies: Policies
    usage: Usage

    @property
    def has_live_values(self) -> bool:
        """Whether there is a place for live values: where Redis is set."""
        return self.link is not None

    @property
    def redis_links(self) -> dict[str, RedisLink]:
        """The ways to Redis by what operators call them: `redis`, and `semantic_redis` where it is another one."""
        own = self.semantic_link if self.semantic_link is not self.link else None
        named = {"redis": self.link, "semantic_redis": own}
        return {name: link for name, link in named.items() if link is not None}

    @property
    def redis_states(self) -> dict[str, str]:
        """The state of each by that name: `ok`, `partly away`, `away`; `redis` is `none` when none is configured."""
        return {"redis": "none"} | {name: link.state for name, link in self.redis_links.items()}
