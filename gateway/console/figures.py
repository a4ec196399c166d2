"""Figures out of a text of Prometheus metrics, by the names of the samples and whatever labels they have.

    samples = read(content)
    samples.total("dejavec_tokens_total")                        # summed over all labels
    samples.by("dejavec_cache_hits_total", "tier")               # {"local": 5.0, ...}, summed over the others
    samples.histogram("embeddings_latency_seconds")              # [[0.001, 3.0], ..., [None, 9.0]], cumulative

A name that is not there is 0, or nothing.
"""

import math
from collections import defaultdict

from common import prometheus_text

Histogram = list[list[float | None]]


class Samples(prometheus_text.Samples):
    """The samples of each name, for a page that shows 0 where nothing was counted."""

    def total(self, name: str, **labels: str) -> float:
        """The sum of a name's samples that have these labels."""
        return super().total(name, **labels) or 0.0

    def has(self, name: str) -> bool:
        """Whether there is any sample of this name."""
        return name in self.by_name

    def histogram(self, name: str, **labels: str) -> Histogram:
        """[upper bound, cumulative count] of each bucket, upwards; the last bound, infinity, is None."""
        sums: dict[float, float] = defaultdict(float)
        for found, value in self.by_name.get(f"{name}_bucket", ()):
            if labels.items() <= found.items() and "le" in found:
                sums[float(found["le"])] += value
        return [[None if math.isinf(bound) else bound, count] for bound, count in sorted(sums.items())]


def read(content: bytes) -> Samples:
    """The samples of an exposition in Prometheus' text format. Raises ValueError where that is not UTF-8."""
    return Samples(prometheus_text.parse(content.decode("utf-8")).by_name)
