"""Weights to int8: pairs that cannot saturate, steps, and what GPTQ gains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.build.graph.rounding import PAIR_LIMIT, Rounding, choose_scale, round_weight
from tests.pair_limit import exceeds_pair_limit

NEAREST = Rounding(gptq=False)
UNBOUNDED = Rounding(pair_limit=None)


def weights(inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    """Random float32[inputs, outputs] with some large ones."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((inputs, outputs)) * (1 + 4 * (rng.random((inputs, 1)) < 0.1))).astype(np.float32)


def activations(inputs: int, seed: int = 1) -> np.ndarray:
    """float32[500, inputs] that depend on each other, as real ones do."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((500, inputs)) @ rng.standard_normal((inputs, inputs)) / inputs).astype(np.float32)


@pytest.mark.parametrize("gptq", [True, False])
@pytest.mark.parametrize("inputs", [2, 7, 32, 200])
def test_no_pair_can_saturate(gptq: bool, inputs: int) -> None:
    """255 times the weights of one sign in a pair stay inside 16 bits, whatever the method and the width."""
    x = activations(inputs)
    rounded, _ = round_weight(weights(inputs, 48), x.T @ x, Rounding(gptq=gptq))
    assert not exceeds_pair_limit(rounded)
    assert np.abs(rounded.astype(int)).max() <= 127


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=9))
def test_any_matrix_is_bounded_and_finite(rows: list[list[float]]) -> None:
    """Zeros, single rows, equal extremes."""
    weight = np.array(rows, np.float32)
    gram = np.eye(len(weight), dtype=np.float32)
    for rounding in (Rounding(), NEAREST):
        rounded, scale = round_weight(weight, gram, rounding)
        assert not exceeds_pair_limit(rounded)
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_pairs_over_the_limit_are_found() -> None:
    """Same signs count, opposite ones do not; a last row without a partner is free."""
    assert exceeds_pair_limit(np.array([[65], [64]], np.int8))
    assert exceeds_pair_limit(np.array([[-127], [-2]], np.int8))
    assert not exceeds_pair_limit(np.array([[127], [-127], [64], [64], [127]], np.int8))
    assert not exceeds_pair_limit(np.array([[1], [127], [2]], np.int8))


def test_steps_without_a_bound_hold_the_peak() -> None:
    """Each column's largest magnitude becomes 127; a column of zeros is no division by zero."""
    weight = np.array([[1.0, 0.0, -4.0], [-2.0, 0.0, 1.0]], np.float32)
    rounded, scale = round_weight(weight, None, UNBOUNDED)
    assert rounded.tolist() == [[64, 0, -127], [-127, 0, 32]]
    np.testing.assert_allclose(rounded[:, [0, 2]] * scale[[0, 2]], weight[:, [0, 2]], atol=0.02)


def test_a_larger_step_is_taken_where_it_loses_less() -> None:
    """A channel whose two peaks share a pair is better off with coarser steps; the others keep theirs."""
    weight = np.full((8, 2), 13 / 127, np.float32)
    weight[0, 0] = weight[1, 0] = 1.0
    weight[0, 1], weight[1, 1] = 1.0, -1.0
    scale = choose_scale(weight, np.ones(8, np.float32), Rounding())
    assert scale[0] > 1.5 / 127
    assert scale[1] == np.float32(1 / 127)


@pytest.mark.parametrize("rounding", [Rounding(), UNBOUNDED, Rounding(largest=63, pair_limit=None)])
def test_gptq_keeps_the_outputs_closer(rounding: Rounding) -> None:
    """The error of the product over the calibration inputs falls by more than a fifth."""
    weight, x = weights(96, 40), activations(96)
    errors = {}
    for gptq in (True, False):
        chosen = Rounding(rounding.largest, rounding.pair_limit, gptq)
        rounded, scale = round_weight(weight, x.T @ x, chosen)
        assert np.abs(rounded.astype(int)).max() <= rounding.largest
        errors[gptq] = float(np.square(x @ weight - x @ (rounded * scale)).sum())
    assert errors[True] < 0.8 * errors[False]


def test_an_input_that_never_moved_is_rounded_all_the_same() -> None:
    """A channel that calibration saw at zero keeps its weights."""
    weight, x = weights(16, 4), activations(16)
    x[:, 3] = 0
    weight[2:4] /= 4  # so that the bound on the pair does not matter
    for gram in (x.T @ x, np.zeros((16, 16), np.float32)):
        rounded, scale = round_weight(weight, gram, Rounding())
        np.testing.assert_allclose(rounded[3] * scale, weight[3], atol=2 * float(scale.max()))


def test_the_limit_fits_sixteen_bits() -> None:
    """What the bound is for."""
    assert 255 * PAIR_LIMIT <= np.iinfo(np.int16).max < 255 * (PAIR_LIMIT + 1)
