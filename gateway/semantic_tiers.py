"""The semantic tier of the model in service: made when the engine names a model with a probe, replaced with it.

A tier belongs to one model and one probe; its background loops live as long as it does.
"""

import asyncio
import logging

from cache.budget import BudgetSettings
from cache.exact import ExactTier
from cache.governor import GovernorSettings
from cache.index import SemanticIndex
from cache.probe import Probe, ProbeError
from cache.redis_link import RedisLink
from cache.reuse import ReuseSettings
from cache.semantic import SemanticMode, SemanticSettings, SemanticTier
from cache.threshold import ThresholdSettings
from gateway.background import keep_running, stop
from gateway.engine_client import Model
from gateway.settings import GatewaySettings

log = logging.getLogger("dejavec.gateway")


def semantic_tiers(settings: GatewaySettings, link: RedisLink, exact: ExactTier) -> "SemanticTiers | None":
    """The holder for these settings; None in mode `off`."""
    if settings.semantic_mode == "off":
        return None
    price_s = settings.engine_price_ms / 1000 if settings.engine_price_ms is not None else None
    alpha, fidelity = settings.certificate_alpha, settings.semantic_fidelity
    chosen = SemanticSettings(
        mode=SemanticMode(settings.semantic_mode),
        min_text_length=settings.min_text_length,
        ttl_s=round(settings.cache_ttl_seconds * (1 + settings.cache_ttl_jitter)),
        candidates=settings.semantic_candidates,
        verify_share=settings.verify_share,
        reuse=ReuseSettings(fidelity, alpha, settings.certificate_beta, budget=BudgetSettings(alpha)),
        threshold=ThresholdSettings(
            settings.similarity_threshold, settings.threshold_floor, settings.threshold_ceiling, fidelity, alpha
        ),
        governor=GovernorSettings(engine_price_s=price_s),
    )
    return SemanticTiers(link, exact, chosen, settings.hnsw_from, settings.semantic_timeout_ms / 1000)


class SemanticTiers:
    """Holds the current tier; `of` is asked on every request."""

    def __init__(
        self, link: RedisLink, exact: ExactTier, settings: SemanticSettings, hnsw_from: int, timeout_s: float
    ) -> None:
        self._link = link
        self._exact = exact
        self._settings = settings
        self._hnsw_from = hnsw_from
        self._timeout_s = timeout_s
        self._model: Model | None = None
        self._tier: SemanticTier | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, model: Model) -> SemanticTier | None:
        """The tier of this model; None when it has no probe, or one that cannot be read."""
        if model is not self._model:
            self._replace(model)
        return self._tier

    async def aclose(self) -> None:
        """End the background loops."""
        await stop(self._tasks)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _replace(self, model: Model) -> None:
        if self._tasks:
            ending = asyncio.create_task(stop(self._tasks))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._model, self._tier, self._tasks = model, None, []
        if model.probe is None:
            log.info("no semantic tier: the model bundle has no probe; build it again to get one")
            return
        try:
            probe = Probe.from_bytes(model.probe)
        except ProbeError as error:
            log.warning("no semantic tier: %s", error)
            return
        probe_id = model.info.probe_sha256[:16]
        index = SemanticIndex(
            self._link,
            f"{model.info.fingerprint[:16]}{probe_id}",
            probe.dimensions,
            hnsw_from=self._hnsw_from,
            timeout_s=self._timeout_s,
        )
        self._tier = SemanticTier(self._link, self._exact, index, probe, probe_id, self._settings)
        loops = (index.run_checks, self._tier.run_learner, self._tier.run_sync)
        self._tasks = [asyncio.create_task(keep_running(loop)) for loop in loops]
        log.info("semantic tier: mode %s, fidelity %g", self._settings.mode.value, self._settings.reuse.fidelity)
