"""Spearman's rank correlation."""

import math

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1; 0 where all of one side are equal."""
    ranks_x, ranks_y = average_ranks(np.asarray(x)), average_ranks(np.asarray(y))
    centred_x, centred_y = ranks_x - ranks_x.mean(), ranks_y - ranks_y.mean()
    spread = math.sqrt(float(centred_x @ centred_x) * float(centred_y @ centred_y))
    return float(centred_x @ centred_y) / spread if spread else 0.0


def average_ranks(values: npt.NDArray[np.generic]) -> Float64Array:
    """Ranks from 1; equal values share the mean of the ranks they take up."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean_rank = last - (count - 1) / 2
    return np.asarray(mean_rank[group], dtype=np.float64)
