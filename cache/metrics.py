"""Counters of the cache tiers. Names only; each is incremented where the thing happens."""

from prometheus_client import Counter, Histogram

from common.latency_buckets import LATENCY_BUCKETS_S

EXACT_LOOKUP_SECONDS = Histogram(
    "dejavec_exact_lookup_seconds",
    "One coalesced MGET, from sending to parsed values",
    buckets=LATENCY_BUCKETS_S,
)
EXACT_ERRORS = Counter(
    "dejavec_exact_errors_total",
    "Exact-tier operations that failed and were answered as misses: timeout, connection, corrupt, bypassed, other",
    ["reason"],
)
REFUSED = Counter(
    "dejavec_cache_refused_total",
    "Values in Redis that were not gone by, by kind and reason",
    # value: exact, document, state, matrix, event, live, epoch
    # reason: format (of another version), mac (not stored by a gateway with this key secret under this key, or
    # damaged), size, not_finite, mismatch (a vector that does not belong to its index document), older
    ["value", "reason"],
)
WRITTEN = Counter("dejavec_exact_written_total", "Vectors written to the exact tier")
WRITE_DROPPED = Counter(
    "dejavec_exact_write_dropped_total",
    "Vectors not written back: queue_full, failed, not_finite",
    ["reason"],
)
SEMANTIC_LOOKUPS = Counter(
    "dejavec_semantic_lookups_total", "Texts looked up in the semantic tier: hit, miss", ["outcome"]
)
SEMANTIC_LABELS = Counter(
    "dejavec_semantic_labels_total",
    "Comparisons with the engine's vector, of misses' best neighbours and of checked hits, against the fidelity",
    ["of", "verdict"],  # of: miss, hit; verdict: good, violation
)
SEMANTIC_QUEUE_DROPPED = Counter(
    "dejavec_semantic_learning_dropped_total",
    "Computed texts that made no label and no index entry: queue full, Redis away, tier ended",
)
