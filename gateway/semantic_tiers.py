"""The semantic tier of the model in service: it begins and ends with the model, whoever asks for it.

A tier belongs to one model and its static embedding. It is replaced when the engine set finds another model, and
ends while every namespace is `off`. The old tier's loops are stopped and what it holds is flushed, within a bound;
requests that still hold the old model find no tier.
"""

import asyncio
import logging

from cache.exact import ExactTier
from cache.keys import ALL_NAMESPACES
from cache.redis_link import RedisLink
from cache.semantic.policy import SemanticMode
from cache.semantic.tier import SemanticSettings, SemanticTier, StaticEmbeddingError
from gateway.background import keep_running
from gateway.engines.engine_set import EngineSet, Model
from gateway.policies import Policies
from gateway.settings import GatewaySettings

log = logging.getLogger("dejavec.gateway")


def semantic_settings(settings: GatewaySettings) -> SemanticSettings:
    """The tier's part of the gateway's settings."""
    return SemanticSettings(
        min_text_length=settings.min_text_length,
        ttl_s=round(settings.cache_ttl_seconds * (1 + settings.cache_ttl_jitter)),
        candidates=settings.semantic_candidates,
        verify_share=settings.verify_share,
        engine_price_s=settings.engine_price_ms / 1000 if settings.engine_price_ms is not None else None,
        hnsw_from=settings.hnsw_from,
        index_timeout_s=settings.semantic_timeout_ms / 1000,
    )


class SemanticTiers:
    """Holds the current tier; follows the engine's model and the policies from its construction on."""

    def __init__(
        self,
        link: RedisLink,
        secret: bytes,
        exact: ExactTier,
        settings: SemanticSettings,
        policies: Policies,
        engine: EngineSet,
    ) -> None:
        self._link = link
        self._secret = secret
        self._exact = exact
        self._settings = settings
        self._policies = policies
        self._engine = engine
        self._model: Model | None = None
        self._tier: SemanticTier | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False
        engine.on_change(self._follow)
        policies.on_change(self._follow)

    def of(self, model: Model, namespace: str) -> SemanticTier | None:
        """The tier of this model; None where the namespace is `off`, the model is not the one in service, or it has no
        static embedding that can be read, and in a cluster."""
        if model is not self._model or self._link.is_cluster or self._policies.of(namespace).mode is SemanticMode.OFF:
            return None
        return self._tier

    @property
    def current(self) -> SemanticTier | None:
        """The tier in service; None where there is none."""
        return self._tier

    async def aclose(self) -> None:
        """End the tier, and wait for those that are ending; each is bounded."""
        if not self._is_closed:
            self._policies.unfollow(self._follow)
        self._is_closed = True
        self._replace(None)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _follow(self) -> None:
        """Begin, replace or end the tier, as the model in service and the policies have it now."""
        model = self._engine.current_model if self._policies.is_any_on else None
        if model is not self._model and not self._is_closed:
            self._replace(model)

    def _replace(self, model: Model | None) -> None:
        if self._tier is not None:
            ending = asyncio.create_task(self._tier.stop())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._model, self._tier = model, self._open(model) if model is not None else None
        if self._tier is None:
            return
        self._tier.start(keep_running)
        policy = self._policies.of(ALL_NAMESPACES)
        log.info("semantic tier: mode %s, fidelity %g where nothing else is set", policy.mode.value, policy.fidelity)

    def _open(self, model: Model) -> SemanticTier | None:
        if model.static_embedding is None:
            log.info("no semantic tier: the model bundle has no static embedding; build it again to get one")
            return None
        source = (model.info.fingerprint, model.info.static_embedding_sha256, model.static_embedding)
        try:
            return SemanticTier.in_redis(
                self._link, self._secret, self._exact, source, self._settings, self._policies.of
            )
        except StaticEmbeddingError as error:
            log.warning("no semantic tier: %s", error)
            return None
