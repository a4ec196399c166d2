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
    tenants: Tenants
    policies: Policies
    usage: Usage

    @property
    def has_semantic_tier(self) -> bool:
        """Whether there can be semantic hits, and live values: where Redis is set."""
        return self.link is not None

    @property
    def redis_state(self) -> str:
        """`ok`, `away`, or `none` when no Redis is configured."""
        return self.link.state if self.link else "none"
