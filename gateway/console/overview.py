"""What the console polls: traffic, latency, models and their engines, Redis, caches.

    overview = Overview(gateway)
    await overview.read()           # a JSON object of bounded size; asked again within `FRESH_S`, the same one

Counters and histograms are sums since the start over all workers, out of the gateway's own metrics; the page makes
rates and percentiles of two readings. This module alone reads engines, tiers and Redis for the console.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

import aiohttp

from cache.redis_figures import read_figures
from cache.redis_link import RedisLink
from gateway.console import engines, figures
from gateway.metrics import exposition
from gateway.models import ServedModel
from gateway.settings import DEFAULT_MODEL, MAX_MODELS, GatewaySettings
from gateway.state import Gateway

FRESH_S: Final = 0.5
MAX_NAMESPACES: Final = 1000
STAGES: Final = ("local", "exact", "semantic", "engine")  # of a request, those that the page shows


class Overview:
    """One gateway worker's readings, at most one under way."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reading = asyncio.Lock()
        self._latest: dict[str, Any] = {}
        self._read_at = -FRESH_S

    async def read(self) -> dict[str, Any]:
        """The reading of now, or one that is at most `FRESH_S` old."""
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_S:
                self._latest = await _overview(self._gateway)
                self._read_at = time.monotonic()
            return self._latest


async def _overview(gateway: Gateway) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        timeout = aiohttp.ClientTimeout(total=2 * engines.TIMEOUT_S)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        shown = list(gateway.models)[:MAX_MODELS]
        links = gateway.redis_links
        found, *models = await asyncio.gather(
            asyncio.gather(*(_redis(link) for link in links.values())), *(_model(http, one) for one in shown)
        )
    samples = figures.read(exposition()[0])
    settings = gateway.settings
    return {
        "at": time.time(),
        "version": version("dejavec"),
        "workers": settings.gateway_workers,
        "models": models,
        **{"redis": {"state": "none"}, **dict(zip(links, found, strict=True))},
        "local": _local(settings, samples),
        "namespaces": gateway.policies.namespaces[:MAX_NAMESPACES],
        "namespaces_left_out": max(0, len(gateway.policies.namespaces) - MAX_NAMESPACES),
        "engine_price_ms": settings.engine_price_ms,
        **_counted(samples),
    }


def _counted(samples: figures.Samples) -> dict[str, Any]:
    """The part that comes from this gateway's metrics."""
    semantic = samples.by_name.get("dejavec_semantic_labels_total", ())
    checked = [(labels["verdict"], value) for labels, value in semantic if labels.get("of") == "hit"]
    return {
        "texts": samples.by("dejavec_cache_hits_total", "tier"),
        "tokens": samples.total("dejavec_tokens_total"),
        "requests": samples.by("embeddings_requests_total", "status"),
        "in_flight": samples.total("dejavec_requests_in_flight"),
        "latency": {
            "request": samples.histogram("embeddings_latency_seconds"),
            **{stage: samples.histogram("dejavec_stage_seconds", stage=stage) for stage in STAGES},
        },
        "checked_hits": {
            "good": sum(value for verdict, value in checked if verdict == "good"),
            "violation": sum(value for verdict, value in checked if verdict == "violation"),
        },
        "written": samples.total("dejavec_exact_written_total"),
        "write_dropped": samples.total("dejavec_exact_write_dropped_total"),
        "cache_errors": samples.total("dejavec_exact_errors_total"),
        "refused": samples.total("dejavec_cache_refused_total"),
        "auth_failures": samples.total("dejavec_auth_failures_total"),
        "memory_bytes": samples.total("process_resident_memory_bytes"),
    }


def _local(settings: GatewaySettings, samples: figures.Samples) -> dict[str, Any]:
    """L0, of all workers."""
    return {
        "workers": settings.gateway_workers,
        "entries": samples.total("dejavec_local_cache_entries"),
        "bytes": samples.total("dejavec_local_cache_bytes"),
        "max_bytes": settings.gateway_workers * settings.local_cache_mb * 1024 * 1024,
    }


async def _model(http: aiohttp.ClientSession, served: ServedModel) -> dict[str, Any]:
    """A model's identity as the gateway holds it, whether the gateway can use it, and its engines' own reports."""
    current = served.engine.current_model
    info = None if current is None else current.info
    return {
        "name": served.name if served.name != DEFAULT_MODEL or info is None else info.model,
        "fingerprint": None if info is None else info.fingerprint,
        "dimensions": None if info is None else info.dimensions,
        "max_tokens": None if info is None else info.max_tokens,
        "has_static_embedding": current is not None and current.static_embedding is not None,
        "is_ready": served.engine.is_ready,
        "reason": served.engine.away_detail,
        "engines": await engines.reports(http, served.engine),
    }


async def _redis(link: RedisLink) -> dict[str, Any]:
    """State as requests see it, and figures of the servers that answer."""
    figures = await read_figures(link) if link.state != "away" else None
    return {"state": link.state} | ({} if figures is None else asdict(figures))
