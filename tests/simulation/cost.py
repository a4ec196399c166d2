"""What the gateway's side of a look-up costs: static vector and decision, without Redis. Medians on one core."""

import statistics
import time
from collections.abc import Callable

import numpy as np

from cache.semantic.alignment import AlignmentSums
from cache.semantic.predictor import Predictor, choose
from cache.semantic.static_embedding import StaticEmbedding

TIMES = 2000
LENGTHS = (12, 60, 250)
NEIGHBOURS = (8, 16)


def cost(embedding: StaticEmbedding) -> str:
    """A few lines: microseconds of a static vector by length, of a decision by neighbours, of fitting the matrix."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(1000, len(embedding.table), 60).astype(np.int32) for _ in range(500)]
    statics = np.stack([embedding.vector(ids) for ids in texts])
    noisy = statics + 0.02 * draw.normal(size=statics.shape).astype(np.float32)
    projected = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    sums = AlignmentSums(embedding.dimensions)
    sums.add(statics, projected)
    matrix = sums.fit()[0].matrix
    predictor = Predictor.from_meta(embedding.meta)
    lines = []
    for length in LENGTHS:
        ids = draw.integers(1000, len(embedding.table), length).astype(np.int32)
        lines.append(f"static vector of {length} tokens: {_microseconds(lambda ids=ids: embedding.vector(ids)):.0f} us")  # type: ignore[misc]
    for count in NEIGHBOURS:
        near, far = statics[1 : count + 1], projected[1 : count + 1]
        spent = _microseconds(lambda near=near, far=far: choose(predictor, statics[0], near, far, matrix))  # type: ignore[misc]
        lines.append(f"decision over {count} neighbours: {spent:.0f} us")
    lines.append(f"fitting the alignment matrix: {_microseconds(sums.fit, 20) / 1000:.1f} ms")
    return "\n".join(lines)


def _microseconds(work: Callable[[], object], times: int = TIMES) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1e6
