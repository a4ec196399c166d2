"""How far the vectors of one kind of CPU are from those of another."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from engine.protocol import Float32Array


@dataclass(frozen=True, slots=True)
class Difference:
    """Cosine similarity of the same texts' vectors, and the largest difference of any element."""

    cosine_min: float
    cosine_mean: float
    largest_difference: float
    equal_texts: int  # to the byte


def compare(left: Float32Array, right: Float32Array) -> Difference:
    """Two arrays float32[n, dimensions] of the same texts, row by row."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    cosine = np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    equal = sum(one.tobytes() == other.tobytes() for one, other in zip(left, right, strict=True))
    return Difference(float(cosine.min()), float(cosine.mean()), float(np.abs(a - b).max()), equal)


def compare_all(vectors: Mapping[str, Float32Array]) -> dict[tuple[str, str], Difference]:
    """Every pair of kinds."""
    return {(a, b): compare(vectors[a], vectors[b]) for a, b in combinations(vectors, 2)}
