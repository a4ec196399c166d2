"""The gateway's metrics. Names that operators already have alerts for stay as they are; the rest carry `dejavec_`.

Under several workers prometheus-client's multiprocess mode adds them up, in a folder made by the command that starts
them (`gateway.metrics_storage`); the resident memory is then that of all of them, read from the operating system.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from gateway import metrics_storage

LATENCY_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TIERS = ("local", "exact", "semantic", "miss")

REQUESTS = Counter("embeddings_requests_total", "Embedding requests, by HTTP status", ["status"])
LATENCY = Histogram(
    "embeddings_latency_seconds", "Embedding requests, from first byte to reply", buckets=LATENCY_BUCKETS
)
ENGINE_CALL = Histogram(
    "dejavec_engine_call_seconds", "Calls to the engine, queueing there included", ["model"], buckets=LATENCY_BUCKETS
)
CACHE_REQUESTS = Counter("cache_requests_total", "Texts looked up in the cache")
CACHE_HITS = Counter("cache_hits_total", "Texts served from the cache, by any tier")
TIER_HITS = Counter("dejavec_cache_hits_total", "Texts served, by tier and model", ["tier", "model"])
TOKENS = Counter("dejavec_tokens_total", "Tokens of answered texts, cached ones included", ["model"])
TRUNCATED = Counter("dejavec_truncated_total", "Texts cut at the model's limit")
IGNORED_FIELDS = Counter("dejavec_ignored_fields_total", "Request fields that were ignored, by name", ["field"])
IN_FLIGHT = Gauge("dejavec_requests_in_flight", "Requests in work", multiprocess_mode="livesum")
CLIENT_GONE = Counter("dejavec_client_gone_total", "Requests whose client left before the answer")
AUTH_FAILURES = Counter("dejavec_auth_failures_total", "Requests with a wrong API key or admin token")
ENGINE_READY = Gauge(
    "dejavec_engine_ready", "1 while a real inference passed lately", ["model"], multiprocess_mode="livemin"
)
REDIS_OK = Gauge("dejavec_redis_ok", "1 while Redis answers, 0 while it is bypassed", multiprocess_mode="livemin")

LIMIT_REFUSALS = Counter("dejavec_limit_refusals_total", "Requests over a limit of their key, by limit", ["limit"])
LIMIT_ASKS = Counter("dejavec_limit_asks_total", "Asks of Redis for allowance of a key's limit")
LIMITS_LOCAL = Gauge(
    "dejavec_limits_local", "Limits that go by this worker's share, Redis being away", multiprocess_mode="livesum"
)
USAGE_UNWRITTEN = Gauge(
    "dejavec_usage_unwritten_keys", "API keys with usage that is not yet in Redis", multiprocess_mode="livesum"
)


class ModelMetrics:
    """What is counted for each model by itself; `model` is its name in the settings, so there are few."""

    def __init__(self, model: str) -> None:
        self.served = {tier: TIER_HITS.labels(tier, model) for tier in TIERS}
        self.tokens = TOKENS.labels(model)
        self.engine_call = ENGINE_CALL.labels(model)


class _GroupMemory(Collector):
    """`process_resident_memory_bytes` of all workers of one gateway together."""

    def collect(self) -> Iterator[Metric]:
        total = 0
        with suppress(psutil.Error):  # the parent, whose own end is near
            for process in psutil.Process(os.getppid()).children():
                with suppress(psutil.Error):  # it has just ended
                    total += process.memory_info().rss
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory of all workers", value=total)


def exposition() -> tuple[bytes, str]:
    """The body and content type of `/metrics`, for this worker or for all workers together."""
    if metrics_storage.VARIABLE not in os.environ:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_GroupMemory())
    return generate_latest(registry), CONTENT_TYPE_LATEST
