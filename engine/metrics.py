"""The engine's metrics for Prometheus.

`embedding_batch_queue_size`, `embedding_duration_seconds`, `process_resident_memory_bytes` and, with a GPU,
`nvidia_gpu_memory_used_bytes` and `_total_bytes` are names that existing alerts use; the rest start with
`dejavec_engine_`.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from common.latency_buckets import LATENCY_BUCKETS_S
from engine.model.gpu_memory import find_gpu_memory

CONTENT_TYPE = CONTENT_TYPE_LATEST

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineMetrics:
    """One engine's metrics in a registry of their own, so that a process may hold several engines."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        if (gpu_memory := find_gpu_memory()) is not None:
            registry.register(gpu_memory)
        self._queue_rows = Gauge("embedding_batch_queue_size", "Texts that wait for the model.", registry=registry)
        self._duration = Histogram(
            "embedding_duration_seconds",
            "From a request's arrival to its vectors, for requests that succeeded.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        prefix = "dejavec_engine_"
        self._queue_tokens = Gauge(prefix + "queue_tokens", "Tokens that wait.", registry=registry)
        self._rate = Gauge(
            prefix + "tokens_per_second", "Measured rate of the runs, without padding.", registry=registry
        )
        self._requests = Counter(
            prefix + "requests", "Requests for vectors by HTTP status.", ["status"], registry=registry
        )
        self._tokens = Counter(prefix + "tokens", "Tokens computed, without padding.", registry=registry)
        self._padded = Counter(prefix + "padded_tokens", "Tokens computed, with padding.", registry=registry)
        self._padding = Gauge(
            prefix + "padding_share",
            "Share of padding in all tokens computed since start.",
            registry=registry,
        )
        self._batch_rows = Histogram(prefix + "batch_rows", "Texts in a run.", buckets=_ROWS, registry=registry)
        self._run = Histogram(prefix + "run_seconds", "Time of a run.", buckets=LATENCY_BUCKETS_S, registry=registry)
        self._queue_time = Histogram(
            prefix + "queue_seconds",
            "From a request's arrival to the start of its first run.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._tokenize = Histogram(
            prefix + "tokenize_seconds",
            "Time to tokenise a request sent as texts.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._sums = [0, 0]
        self._padding.set_function(self._padding_share)
        self._by_status: dict[int, Counter] = {}

    def watch(
        self,
        queued_rows: Callable[[], float],
        queued_tokens: Callable[[], float],
        tokens_per_s: Callable[[], float],
    ) -> None:
        """Read these at each scrape."""
        self._queue_rows.set_function(queued_rows)
        self._queue_tokens.set_function(queued_tokens)
        self._rate.set_function(tokens_per_s)

    def batch_done(self, rows: int, tokens: int, padded_tokens: int, run_s: float) -> None:
        """A run ended; `padded_tokens` is rows x longest."""
        self._batch_rows.observe(rows)
        self._run.observe(run_s)
        self._tokens.inc(tokens)
        self._padded.inc(padded_tokens)
        self._sums[0] += tokens
        self._sums[1] += padded_tokens

    def request_started(self, queue_time_s: float) -> None:
        """A request's first row left the queue."""
        self._queue_time.observe(queue_time_s)

    def request_done(self, status: int, duration_s: float) -> None:
        """A request for vectors was answered."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self._requests.labels(str(status))
        counter.inc()
        if status == 200:
            self._duration.observe(duration_s)

    def tokenized(self, duration_s: float) -> None:
        """A request's texts were tokenised."""
        self._tokenize.observe(duration_s)

    def render(self) -> bytes:
        """The text that `GET /metrics` answers."""
        return generate_latest(self._registry)

    def _padding_share(self) -> float:
        tokens, padded = self._sums
        return 1 - tokens / padded if padded else 0.0
