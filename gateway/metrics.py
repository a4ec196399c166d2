"""The gateway's metrics. Names that operators already have alerts for stay as they are; the rest carry `dejavec_`.

Under several workers prometheus-client's multiprocess mode adds them up, in a folder made by the command that starts
them (`gateway.metrics_storage`); the resident memory is then that of all of them, read from the operating system.
docs/metrics.md has the table of all (`deploy.metrics`).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache

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

from common.latency_buckets import LATENCY_BUCKETS_S
from gateway import metrics_storage
from gateway.stage_times import StageTimes
from gateway.tallies import Durations, Level, Tally, hand_over

TIERS = ("local", "exact", "semantic", "miss")
STAGES = ("local", "tokenize", "exact", "semantic", "engine")

REQUESTS = Counter("embeddings_requests_total", "Embedding requests, by HTTP status", ["status"])
LATENCY = Histogram(
    "embeddings_latency_seconds", "Embedding requests, from first byte to reply", buckets=LATENCY_BUCKETS_S
)
ENGINE_CALL = Histogram(
    "dejavec_engine_call_seconds",
    "Calls to the engine, queueing there included",
    ["model"],
    buckets=LATENCY_BUCKETS_S,
)
STAGE = Histogram(
    "dejavec_stage_seconds",
    "One stage of a request: local, tokenize, exact, semantic, engine",
    ["stage"],
    buckets=LATENCY_BUCKETS_S,
)
CACHE_REQUESTS = Counter("cache_requests_total", "Texts looked up in the cache")
CACHE_HITS = Counter("cache_hits_total", "Texts served from the cache, by any tier")
TIER_HITS = Counter(
    "dejavec_cache_hits_total", "Texts served, by model and tier: local, exact, semantic, miss", ["tier", "model"]
)
TOKENS = Counter("dejavec_tokens_total", "Tokens of answered texts, cached ones included", ["model"])
TRUNCATED = Counter("dejavec_truncated_total", "Texts cut at the model's limit")
IGNORED_FIELDS = Counter("dejavec_ignored_fields_total", "Request fields that were ignored, by name", ["field"])
IN_FLIGHT = Gauge("dejavec_requests_in_flight", "Requests in work", multiprocess_mode="livesum")
CLIENT_GONE = Counter("dejavec_client_gone_total", "Requests whose client left before the answer")
AUTH_FAILURES = Counter("dejavec_auth_failures_total", "Requests with a wrong API key or admin token")
ENGINE_READY = Gauge(
    "dejavec_engine_ready", "1 while a real inference passed lately", ["model"], multiprocess_mode="livemin"
)
REDIS_OK = Gauge(
    "dejavec_redis_ok",
    "1 while Redis answers, 0 while it, or a server of a cluster, is bypassed",
    multiprocess_mode="livemin",
)
SEMANTIC_REDIS_OK = Gauge(
    "dejavec_semantic_redis_ok",
    "The same of semantic_redis_url; where that is not set, of redis_url",
    multiprocess_mode="livemin",
)

LOCAL_BYTES = Gauge("dejavec_local_cache_bytes", "In-process caches (L0): bytes", multiprocess_mode="livesum")
LOCAL_ENTRIES = Gauge("dejavec_local_cache_entries", "In-process caches (L0): vectors", multiprocess_mode="livesum")
QUEUED_WRITES = Gauge("dejavec_exact_queued_writes", "Vectors waiting to be written back", multiprocess_mode="livesum")


def _shared(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    """Of what all workers, and all gateways on one Redis, see alike: the value that was set last."""
    return Gauge(name, text, labels, multiprocess_mode="livemostrecent")


_PARTITION = ("model", "namespace")
SEMANTIC_TAU = _shared("dejavec_semantic_tau", "z from which hits are served; NaN: none are", _PARTITION)
SEMANTIC_CERTIFIED = _shared("dejavec_semantic_certified", "1 while a certificate holds (auto)", _PARTITION)
SEMANTIC_BALANCE = _shared("dejavec_semantic_error_budget", "Violations still allowed; NaN: no budget", _PARTITION)
SEMANTIC_OPENINGS = _shared("dejavec_semantic_breaker_openings", "How often the breaker has opened", _PARTITION)
SEMANTIC_ALPHA = _shared("dejavec_semantic_alpha", "Allowed share of violations", _PARTITION)
SEMANTIC_CHECKED = _shared("dejavec_semantic_checked_hits", "Hits that were checked", _PARTITION)
SEMANTIC_VIOLATIONS = _shared("dejavec_semantic_violations", "Checked hits that violate", _PARTITION)
INDEX_DOCUMENTS = _shared("dejavec_semantic_index_documents", "Documents in the semantic index", ("model",))
INDEX_FAILURES = _shared("dejavec_semantic_index_failures", "Documents RediSearch could not index", ("model",))
REDIS_CONFIGURED = _shared("dejavec_redis_configured", "1 where a Redis is set, 0 where there is none")
REDIS_MEMORY = _shared("dejavec_redis_memory_bytes", "Memory that Redis uses; of several servers, the fullest one")
REDIS_MEMORY_MAX = _shared(
    "dejavec_redis_memory_max_bytes", "Redis' maxmemory; 0: no limit; of several, the fullest one's"
)
REDIS_EVICTED = _shared("dejavec_redis_evicted_keys", "Keys that Redis has evicted since its start, all servers")

# What every request adds to.
STAGE_TIMES = StageTimes(STAGE, STAGES, LATENCY_BUCKETS_S)
LATENCIES = Durations(LATENCY, LATENCY_BUCKETS_S)
TEXTS, TEXTS_HIT = Tally(CACHE_REQUESTS), Tally(CACHE_HITS)
REQUESTS_NOW = Level(IN_FLIGHT)
_answered: dict[int, Tally] = {}


def answered(status: int) -> None:
    """Count a request answered with this HTTP status; there are few."""
    tally = _answered.get(status)
    if tally is None:
        tally = _answered[status] = Tally(REQUESTS.labels(str(status)))
    tally.count += 1


# Engines of all sets, the first MAX_SHOWN_ENGINES. `engine` is the model's name and a keyed hash: whoever reads this
# needs no key and sees no address; `EngineSet.states` has the addresses.
MAX_SHOWN_ENGINES = 64
ENGINE_STATES = ("serving", "silent", "avoided", "ejected", "away", "left_out")
ENGINE_STATE = Gauge(
    "dejavec_engine_state",
    "1 for the state an engine is in: serving, silent, avoided, ejected, away, or left_out for another fingerprint",
    ["engine", "state"],
    multiprocess_mode="livemax",
)
ENGINE_TOKENS = Gauge(
    "dejavec_engine_tokens_in_flight",
    "Tokens sent to an engine and not answered",
    ["engine"],
    multiprocess_mode="livesum",
)
ENGINE_EJECTIONS = Counter("dejavec_engine_ejections_total", "Times an engine was ejected for failed calls", ["engine"])
ENGINE_RETRIES = Counter(
    "dejavec_engine_retries_total",
    "Calls sent to one engine more: failed, stopped (the engine answers nothing), late, or hedge",
    ["reason"],
)
JOINED_CALLS = Counter("dejavec_engine_joined_calls_total", "Calls to an engine that held texts of several requests")
JOINED_REQUESTS = Counter("dejavec_engine_joined_requests_total", "Requests whose texts travelled in such calls")


_shown_engines: set[str] = set()


def shown_engine(label: str) -> str:
    """An engine's label: its own, or `other` where there are many. Addresses come and go, and labels do not."""
    if label not in _shown_engines and len(_shown_engines) >= MAX_SHOWN_ENGINES:
        return "other"
    _shown_engines.add(label)
    return label


def forget_engine(label: str) -> None:
    """An engine is gone: it is in no state any more. Its label is free again, unless workers share files."""
    forget([ENGINE_TOKENS], (label,), 0)
    for state in ENGINE_STATES:
        forget([ENGINE_STATE], (label, state), 0)
    if metrics_storage.VARIABLE not in os.environ:
        _shown_engines.discard(label)


def forget(gauges: Iterable[Gauge], labels: tuple[str, ...], value: float) -> None:
    """Gauges of what is gone. Files that workers share keep every label: there it stays, with a value that says so."""
    for gauge in gauges:
        gauge.labels(*labels).set(value)
        if metrics_storage.VARIABLE not in os.environ:
            gauge.remove(*labels)


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
        self.served = {tier: Tally(TIER_HITS.labels(tier, model)) for tier in TIERS}
        self.tokens = Tally(TOKENS.labels(model))
        self.engine_call = ENGINE_CALL.labels(model)


@cache
def model_metrics(model: str) -> ModelMetrics:
    """A model's metrics, the same ones when it is opened again."""
    return ModelMetrics(model)


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
    """The body and content type of `/metrics`, for this worker or for all workers together.

    What other workers count shows within a second.
    """
    hand_over()
    if metrics_storage.VARIABLE not in os.environ:
        return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
    metrics_storage.drop_gauges_of_ended()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_GroupMemory())
    return generate_latest(registry), CONTENT_TYPE_LATEST
