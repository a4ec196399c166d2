"""Figures out of a text of Prometheus metrics, by the names of the samples and whatever labels they have.

    samples = read(content)
    samples.total("dejavec_tokens_total")                        # summed over all labels
    samples.by("dejavec_cache_hits_total", "tier")               # {"local": 5.0, ...}, summed over the others
    samples.histogram("embeddings_latency_seconds")              # [[0.001, 3.0], ..., [None, 9.0]], cumulative

A name that is not there is 0, or nothing.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[Mapping[str, str], float]
Histogram = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of each name, with their labels; only finite values."""

    by_name: Mapping[str, list[Sample]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a name's samples that have these labels."""
        return sum(value for found, value in self.by_name.get(name, ()) if labels.items() <= found.items())

    def has(self, name: str) -> bool:
        """Whether there is any sample of this name."""
        return name in self.by_name

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a name's samples by one label's values."""
        sums: dict[str, float] = defaultdict(float)
        for found, value in self.by_name.get(name, ()):
            if label in found:
                sums[found[label]] += value
        return dict(sums)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """[upper bound, cumulative count] of each bucket, upwards; the last bound, infinity, is None."""
        sums: dict[float, float] = defaultdict(float)
        for found, value in self.by_name.get(f"{name}_bucket", ()):
            if labels.items() <= found.items() and "le" in found:
                sums[float(found["le"])] += value
        return [[None if math.isinf(bound) else bound, count] for bound, count in sorted(sums.items())]


def read(content: bytes) -> Samples:
    """The samples of an exposition in Prometheus' text format. Raises ValueError where it is none."""
    by_name: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families(content.decode("utf-8")):
        for sample in family.samples:
            if math.isfinite(sample.value):
                by_name[sample.name].append((sample.labels, sample.value))
    return Samples(by_name)
