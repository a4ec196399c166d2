"""Tables of positions: the turns of rotary heads, and the bias of relative distances."""

import math

import numpy as np

from engine.build.checkpoint.shape import Rotary
from engine.protocol import Float32Array

BUCKETS = 32  # of MPNet, whatever its config.json has: half of them for each direction
MAX_DISTANCE = 128  # from here on all distances share a bucket


def rotary_tables(rotary: Rotary, head_size: int, count: int) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines, float32[count, head_size / 2] each, of the angle by which position p turns pair i.

    Su et al., 2021. The angle is a float32 product of float32 factors, as in the models' own code: at position 8,191
    its rounding moves a cosine by up to 2e-4.
    """
    pairs = np.arange(0, head_size, 2, dtype=np.float64) / head_size
    turns = (1 / (rotary.base**pairs * rotary.divisor ** (2 / head_size))).astype(np.float32)
    angles = (np.arange(count, dtype=np.float32)[:, None] * turns).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def relative_table(bias: Float32Array, limit: int) -> Float32Array:
    """float32[heads, 2 * limit - 1]: the bias of distance d, key's place less query's, at d + limit - 1.

    bias: float32[buckets, heads]. Buckets as in T5 (Raffel et al., 2020): one a distance up to 7, then ever wider.
    """
    distance = np.arange(-limit + 1, limit)
    half = BUCKETS // 2
    far = np.abs(distance)
    exact = half // 2
    scale = math.log(MAX_DISTANCE / exact)
    logarithm = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(scale)
    wider = exact + (logarithm * np.float32(half - exact)).astype(np.int64)
    bucket = np.where(far < exact, far, np.minimum(wider, half - 1)) + np.where(distance > 0, half, 0)
    return np.ascontiguousarray(bias[bucket].T)
