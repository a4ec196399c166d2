"""Rounding a weight matrix to int8: GPTQ, within bounds that keep integer products exact on every CPU.

Pairs. x86-64 without VNNI adds the products of inputs 2i and 2i + 1 into 16 bits, with saturation. An activation is at
most 255, so the two products fit exactly when the weights of a pair that have the same sign add up to at most 128:
255 x 128 = 32,640 < 32,767. Seven-bit weights (|w| <= 64) are the usual way to get there; bounding the pair keeps the
eighth bit for all weights but the few large ones that meet (1 % of MiniLM's pairs). Measured on MiniLM-L6, one core
with AVX2 and no VNNI (`python -m tests.cpus.candidates`): as fast as seven-bit weights, as close to FP32 as eight-bit
ones in a kernel that is 20 % slower.

GPTQ (Frantar et al., 2022, algorithm 1): rows of W [K, N] are rounded one after the other, and what rounding row k
has moved the outputs is taken back by the rows that follow. With H = sum of x x^T over calibration tokens and U the
upper Cholesky factor of (H + damping)^-1:

    error = (W[k] - rounded(W[k])) / U[k, k]        W[j] -= U[k, j] * error   for j > k

Rows are taken by falling diagonal of H, in blocks, so that most of the work is one matrix product a block.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.build.graph.onnx_writer import Int8Array
from engine.protocol import Float32Array

LARGEST = 127
PAIR_LIMIT = 128
DAMPING = 0.01  # of the mean diagonal of H
BLOCK = 128
SCALE_FACTORS = tuple(np.arange(10, 18) / 10)  # steps tried for a channel, over the smallest that holds its peak
TINY = 1e-12  # a channel of zeros still needs a scale

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rounding:
    """How weights are rounded. `pair_limit` None: no bound on pairs; `gptq` False: each weight to its nearest."""

    largest: int = LARGEST
    pair_limit: int | None = PAIR_LIMIT
    gptq: bool = True


GPTQ_PAIRS = Rounding()


def round_weight(weight: Float32Array, gram: Float32Array | None, rounding: Rounding) -> tuple[Int8Array, Float32Array]:
    """float32[K, N] -> int8[K, N] and the channels' scales float32[N]; `gram`, float32[K, K], is H of the inputs.

    Without `gram` every input counts the same and weights go to their nearest.
    """
    importance = np.ones(len(weight), np.float32) if gram is None else np.diag(gram)
    scale = choose_scale(weight, importance, rounding)
    scaled = (weight / scale).astype(np.float64)
    if gram is None or not rounding.gptq:
        rounded = _nearest(scaled, rounding)
    else:
        rounded = _gptq(scaled, gram.astype(np.float64), rounding)
    return rounded.astype(np.int8), scale


def choose_scale(weight: Float32Array, importance: Float32Array, rounding: Rounding) -> Float32Array:
    """The step of each channel, float32[N], with the least squared error, each input weighted by its `importance`.

    A larger step bounds fewer pairs and rounds the rest more coarsely.
    """
    smallest: Float32Array = (np.maximum(np.abs(weight).max(axis=0), TINY) / rounding.largest).astype(np.float32)
    if rounding.pair_limit is None:
        return np.asarray(smallest)
    best_error = np.full(weight.shape[1], np.inf)
    best = smallest
    for factor in SCALE_FACTORS:
        scale = (smallest * factor).astype(np.float32)
        error = np.square(weight - _nearest(weight / scale, rounding) * scale)
        total = np.asarray(importance @ error)
        best = np.where(total < best_error, scale, best)
        best_error = np.minimum(total, best_error)
    return np.asarray(best, np.float32)


def _nearest(scaled: npt.NDArray[np.floating], rounding: Rounding) -> npt.NDArray[np.floating]:
    """Each weight rounded by itself; the larger pairs are shrunk by equal parts."""
    rounded = np.clip(np.rint(scaled), -rounding.largest, rounding.largest)
    if rounding.pair_limit is None:
        return np.asarray(rounded)
    even = len(rounded) // 2 * 2
    first, second = rounded[0:even:2], rounded[1:even:2]
    excess = _excess(first, second, rounding.pair_limit)
    first -= np.sign(first) * np.ceil(excess / 2)
    second -= np.sign(second) * np.floor(excess / 2)
    return np.asarray(rounded)


def _excess(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating], limit: int) -> npt.NDArray[np.floating]:
    """How far two weights of the same sign are together above the limit; 0 where they are not."""
    together = np.where(first * second > 0, np.abs(first) + np.abs(second), 0)
    return np.asarray(np.maximum(together - limit, 0))


def _gptq(scaled: Float64Array, gram: Float64Array, rounding: Rounding) -> Float64Array:
    """Weights in steps, float64[K, N], rounded with the errors carried forward."""
    count = len(scaled)
    order = np.argsort(-np.diag(gram), kind="stable")
    factor = _inverse_factor(gram[np.ix_(order, order)])
    partner = _partners(order)
    rest, rounded = scaled[order], np.zeros_like(scaled)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        errors = np.zeros((stop - start, scaled.shape[1]))
        for k in range(start, stop):
            rounded[k] = _round_row(k, rest, rounded, partner, rounding)
            errors[k - start] = (rest[k] - rounded[k]) / factor[k, k]
            rest[k + 1 : stop] -= np.outer(factor[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    in_place = np.empty_like(rounded)
    in_place[order] = rounded
    return in_place


def _inverse_factor(gram: Float64Array) -> Float64Array:
    """The upper Cholesky factor of the damped H's inverse. An input that never moved gets the damping alone."""
    damping = DAMPING * float(np.mean(np.diag(gram))) or 1.0
    inverse = np.linalg.inv(gram + damping * np.eye(len(gram)))
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)


def _partners(order: npt.NDArray[np.intp]) -> list[int | None]:
    """For each place in `order`, the place of the input that shares a 16-bit sum with it; None for a last odd one."""
    place = np.argsort(order)
    return [int(place[k ^ 1]) if k ^ 1 < len(order) else None for k in order.tolist()]


def _round_row(
    k: int, rest: Float64Array, rounded: Float64Array, partner: list[int | None], rounding: Rounding
) -> Float64Array:
    """Row k to whole steps, within what its partner leaves; both give way alike where together they are too large."""
    wanted, other = rest[k], partner[k]
    lowest = np.full(len(wanted), -float(rounding.largest))
    highest = -lowest
    if rounding.pair_limit is not None and other is not None:
        if other < k:
            highest = np.minimum(highest, rounding.pair_limit - np.maximum(rounded[other], 0))
            lowest = np.maximum(lowest, np.maximum(-rounded[other], 0) - rounding.pair_limit)
        else:
            room = np.abs(wanted) - _excess(wanted, rest[other], rounding.pair_limit) / 2
            room = np.floor(np.where(room < np.abs(wanted), np.maximum(room, 0), highest))
            highest, lowest = np.minimum(highest, room), np.maximum(lowest, -room)
    return np.asarray(np.clip(np.rint(wanted), lowest, highest))
