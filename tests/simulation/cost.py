"""What the gateway's side of a look-up costs: probe and decision, without Redis. Medians on one core."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from cache.semantic.alignment import AlignmentSums
from cache.semantic.static_embedding import StaticEmbedding
from cache.semantic.threshold import Predictor, choose

TIMES = 2000
LENGTHS = (12, 60, 250)
NEIGHBOURS = (8, 16)


def cost(probe: StaticEmbedding) -> str:
    """A few lines: microseconds of a probe by length, of a decision by neighbours, of fitting the map."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(1000, len(probe.table), 60).astype(np.int32) for _ in range(500)]
    probes = np.stack([probe.vector(ids) for ids in texts])
    noisy = probes + 0.02 * draw.normal(size=probes.shape).astype(np.float32)
    vectors = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    learner = AlignmentSums(probe.dimensions)
    learner.add(probes, vectors)
    alignment, _ = learner.fit()
    predictor = Predictor.from_meta(probe.meta)
    lines = []
    for length in LENGTHS:
        ids = draw.integers(1000, len(probe.table), length).astype(np.int32)
        lines.append(f"probe of {length} tokens: {_microseconds(lambda ids=ids: probe.vector(ids)):.0f} us")  # type: ignore[misc]
    for count in NEIGHBOURS:
        near = slice(1, count + 1)
        spent = _microseconds(
            lambda near=near: choose(predictor, probes[0], probes[near], vectors[near], alignment.matrix)
        )  # type: ignore[misc]
        lines.append(f"decision over {count} neighbours: {spent:.0f} us")
    lines.append(f"fitting the map: {_microseconds(learner.fit, 20) / 1000:.1f} ms")
    return "\n".join(lines)


def _microseconds(work: Callable[[], object], times: int = TIMES) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e6
