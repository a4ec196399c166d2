"""The semantic tier of the model in service: made when the engine names a model with a probe, replaced with it.

A tier belongs to one model and one probe; its background loops live as long as it does.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from cache.exact import ExactTier
from cache.governor import GovernorSettings
from cache.index import SemanticIndex
from cache.keys import ALL_NAMESPACES
from cache.probe import Probe, ProbeError
from cache.promise import SemanticMode
from cache.redis_link import RedisAway, RedisLink
from cache.semantic import SemanticSettings, SemanticTier
from gateway.background import keep_running, stop
from gateway.engine_client import Model
from gateway.promises import Promises
from gateway.settings import GatewaySettings

log = logging.getLogger("dejavec.gateway")

LAST_WORDS_S: Final = 2.0


def semantic_tiers(settings: GatewaySettings, promises: Promises, link: RedisLink, exact: ExactTier) -> "SemanticTiers":
    """The holder for these settings."""
    price_s = settings.engine_price_ms / 1000 if settings.engine_price_ms is not None else None
    chosen = SemanticSettings(
        min_text_length=settings.min_text_length,
        ttl_s=round(settings.cache_ttl_seconds * (1 + settings.cache_ttl_jitter)),
        candidates=settings.semantic_candidates,
        verify_share=settings.verify_share,
        governor=GovernorSettings(engine_price_s=price_s),
    )
    return SemanticTiers(link, exact, chosen, promises, settings.hnsw_from, settings.semantic_timeout_ms / 1000)


class SemanticTiers:
    """Holds the current tier; `of` is asked on every request."""

    def __init__(
        self,
        link: RedisLink,
        exact: ExactTier,
        settings: SemanticSettings,
        promises: Promises,
        hnsw_from: int,
        timeout_s: float,
    ) -> None:
        self._link = link
        self._exact = exact
        self._settings = settings
        self._promises = promises
        self._hnsw_from = hnsw_from
        self._timeout_s = timeout_s
        self._model: Model | None = None
        self._tier: SemanticTier | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()

    def of(self, model: Model, namespace: str) -> SemanticTier | None:
        """The tier of this model; None where the namespace is `off`, or the model has no probe that can be read.

        While every namespace is `off` there is none, and nothing runs.
        """
        wanted = model if self._promises.is_any_on else None
        if wanted is not self._model:
            self._replace(wanted)
        return None if self._promises.of(namespace).mode is SemanticMode.OFF else self._tier

    async def aclose(self) -> None:
        """End the background loops, and tell the other gateways what only this one knows."""
        await stop(self._tasks)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._tier is not None:
            with suppress(RedisAway, TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await self._tier.scopes.tell_all()

    def _replace(self, model: Model | None) -> None:
        if self._tasks:
            ending = asyncio.create_task(stop(self._tasks))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._model, self._tier, self._tasks = model, None, []
        if model is None:
            return
        if model.probe is None:
            log.info("no semantic tier: the model bundle has no probe; build it again to get one")
            return
        try:
            probe = Probe.from_bytes(model.probe)
        except ProbeError as error:
            log.warning("no semantic tier: %s", error)
            return
        probe_id = model.info.static_embedding_sha256[:16]
        index = SemanticIndex(
            self._link,
            f"{model.info.fingerprint[:16]}{probe_id}",
            probe.dimensions,
            hnsw_from=self._hnsw_from,
            timeout_s=self._timeout_s,
        )
        self._tier = SemanticTier(self._link, self._exact, index, probe, probe_id, self._settings, self._promises.of)
        loops = (index.run_checks, self._tier.learner.run, self._tier.scopes.run_sync)
        self._tasks = [asyncio.create_task(keep_running(loop)) for loop in loops]
        promise = self._promises.of(ALL_NAMESPACES)
        log.info("semantic tier: mode %s, fidelity %g where nothing else is set", promise.mode.value, promise.fidelity)
