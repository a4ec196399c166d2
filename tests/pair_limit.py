"""Whether rounded weights keep the bound under which 16-bit sums of two products cannot saturate."""

import numpy as np

from engine.build.graph.rounding import PAIR_LIMIT, Int8Array


def exceeds_pair_limit(weight: Int8Array, limit: int = PAIR_LIMIT) -> bool:
    """Whether some pair of inputs, rows 2i and 2i + 1 of int8[K, N], could saturate a 16-bit sum."""
    even = weight[: len(weight) // 2 * 2].astype(np.int16)
    positive, negative = np.maximum(even, 0), np.maximum(-even, 0)
    return any(bool((part[0::2] + part[1::2] > limit).any()) for part in (positive, negative))
