"""Arithmetic on measured numbers: percentiles, spreads, ratios, cosines."""

import base64
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles of one group of requests, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest observed value that at least `percent` % of the values do not exceed (nearest rank).

    `ordered` rises and is not empty. Interpolation would report a latency that was never measured.
    """
    rank = math.ceil(percent / 100 * len(ordered) - 1e-9)  # 99.9 / 100 * 1000 is a little above 999
    return ordered[max(rank, 1) - 1]


def latencies(seconds: Sequence[float]) -> Latencies | None:
    """Percentiles of latencies given in seconds, in any order; None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    p50, p95, p99 = (1000 * percentile(ordered, percent) for percent in (50, 95, 99))
    return Latencies(len(ordered), p50, p95, p99, 1000 * ordered[-1])


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one figure over several rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and range; `values` is not empty."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Spread of the quotients round by round: what the machine did to one round, it did to both sides."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def decode_vector(text: str) -> Vector:
    """A vector as `encoding_format: base64` gives it: little-endian float32. Raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


def cosine_similarity(one: Vector, other: Vector) -> float:
    """Cosine of two equally long vectors, in float64, 0 when either is zero. Raises ValueError on lengths."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.dot(left, right)) / norms if norms else 0.0
