"""Everything a running gateway holds, opened in the lifespan and handed to the routes."""

from dataclasses import dataclass

from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.local import LocalCache
from cache.redis_link import RedisLink
from gateway.engines.engine_set import EngineSet
from gateway.policies import Policies
from gateway.semantic_tiers import SemanticTiers
from gateway.service import EmbeddingService
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one gateway worker."""

    settings: GatewaySettings
    engine: EngineSet
    epochs: Epochs
    local: LocalCache
    exact: ExactTier | None
    link: RedisLink | None
    tenants: Tenants
    service: EmbeddingService
    policies: Policies
    tiers: SemanticTiers | None

    @property
    def redis_state(self) -> str:
        """`ok`, `away`, or `none` when no Redis is configured."""
        return self.link.state if self.link else "none"
