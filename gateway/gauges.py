"""What metrics show of a gateway's state, set once a second: caches, semantic tier, Redis; and the tallies of requests.

Namespaces come from configuration and may be many, and each worker's gauges lie in a file of fixed size: the first
MAX_NAMESPACES that a worker sees have gauges of their own, and `/admin` has all.
"""

import asyncio
import math
from typing import Final

from cache.redis_figures import read_figures
from cache.semantic.tier import PartitionFigures
from gateway import metrics, tallies
from gateway.state import Gateway

MAX_NAMESPACES: Final = 32
INTERVAL_S: Final = 1.0
REDIS_INTERVALS: Final = 10  # Redis is asked every tenth time


async def run_gauges(gateway: Gateway) -> None:
    """Set them until cancelled."""
    models: set[str] = set()
    shown: set[tuple[str, str]] = set()
    metrics.REDIS_CONFIGURED.set(gateway.link is not None)
    turn = 0
    while True:
        tallies.hand_over()
        states = gateway.redis_states
        metrics.REDIS_OK.set(states["redis"] == "ok")
        metrics.SEMANTIC_REDIS_OK.set(states.get("semantic_redis", states["redis"]) == "ok")
        _publish_models(gateway, models, shown)
        _publish_caches(gateway)
        _publish_tiers(gateway, shown)
        if turn % REDIS_INTERVALS == 0:
            await _publish_redis(gateway)
        turn += 1
        await asyncio.sleep(INTERVAL_S)


def _publish_models(gateway: Gateway, models: set[str], shown: set[tuple[str, str]]) -> None:
    """Whether each model's engines are ready; models that are gone since are neither ready nor away."""
    for served in gateway.models:
        metrics.ENGINE_READY.labels(served.name).set(served.engine.is_ready)
    now = {served.name for served in gateway.models}
    for name in models - now:
        metrics.forget([metrics.ENGINE_READY], (name,), 1)
        metrics.forget([metrics.INDEX_DOCUMENTS, metrics.INDEX_FAILURES], (name,), 0)
    for labels in [one for one in shown if one[0] not in now]:
        metrics.forget([metrics.SEMANTIC_TAU, metrics.SEMANTIC_BALANCE], labels, math.nan)
        counts = [metrics.SEMANTIC_OPENINGS, metrics.SEMANTIC_CERTIFIED, metrics.SEMANTIC_ALPHA]
        metrics.forget([*counts, metrics.SEMANTIC_CHECKED, metrics.SEMANTIC_VIOLATIONS], labels, 0)
        shown.discard(labels)
    models.clear()
    models |= now


def publish_partition(labels: tuple[str, str], figures: PartitionFigures) -> None:
    """One namespace of one model; `labels` are their names."""
    metrics.SEMANTIC_TAU.labels(*labels).set(math.nan if figures.tau is None else figures.tau)
    metrics.SEMANTIC_BALANCE.labels(*labels).set(math.nan if figures.balance is None else figures.balance)
    metrics.SEMANTIC_OPENINGS.labels(*labels).set(figures.openings)
    metrics.SEMANTIC_CERTIFIED.labels(*labels).set(figures.is_certified)
    metrics.SEMANTIC_ALPHA.labels(*labels).set(figures.alpha)
    metrics.SEMANTIC_CHECKED.labels(*labels).set(figures.checked)
    metrics.SEMANTIC_VIOLATIONS.labels(*labels).set(figures.violations)


def _publish_caches(gateway: Gateway) -> None:
    metrics.LOCAL_BYTES.set(gateway.local.used_bytes)
    metrics.LOCAL_ENTRIES.set(len(gateway.local))
    if gateway.exact is not None:
        metrics.QUEUED_WRITES.set(gateway.exact.queued_writes)


def _publish_tiers(gateway: Gateway, shown: set[tuple[str, str]]) -> None:
    for served in gateway.models:
        tier = served.tiers.current if served.tiers is not None else None
        if tier is None:
            continue
        model = served.name
        metrics.INDEX_DOCUMENTS.labels(model).set(tier.index_documents)
        metrics.INDEX_FAILURES.labels(model).set(tier.index_failures)
        for figures in tier.figures():
            labels = model, figures.namespace
            if labels in shown or len(shown) < MAX_NAMESPACES:
                shown.add(labels)
                publish_partition(labels, figures)


async def _publish_redis(gateway: Gateway) -> None:
    found = await asyncio.gather(*(read_figures(link) for link in gateway.redis_links.values()))
    figures = [one for one in found if one is not None]
    if figures:
        fullest = max(figures, key=lambda one: one.fullest_share)
        metrics.REDIS_MEMORY.set(fullest.fullest_memory_bytes)
        metrics.REDIS_MEMORY_MAX.set(fullest.fullest_memory_max_bytes)
        metrics.REDIS_EVICTED.set(sum(one.evicted_keys for one in figures))
