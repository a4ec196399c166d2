"""Shortened vectors: the cut alone, and as nomic-embed-text-v1.5's card makes it."""

import numpy as np
import pytest

from common.matryoshka import shortened

VECTORS = np.array([[3, -1, 2, 0.5, 4, -2, 1, 0.25], [1, 1, 1, 1, 5, 5, 5, 6]], np.float32)
# torch 2.13: F.normalize(F.layer_norm(F.normalize(x), (8,))[:, :3]), and the same without layer_norm.
CARD = [[0.6746355, -0.6538774, 0.3425072], [-0.5773503, -0.5773503, -0.5773503]]
PLAIN = [[0.8017838, -0.2672613, 0.5345225], [0.5773503, 0.5773503, 0.5773503]]


@pytest.mark.parametrize(("layer_norm", "expected"), [(True, CARD), (False, PLAIN)])
def test_numbers_are_those_of_the_cards_own_lines(layer_norm: bool, expected: list[list[float]]) -> None:
    """Of unit vectors, as bundles give them; with a layer norm before the cut and without."""
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    short = shortened(unit, 3, layer_norm=layer_norm)
    assert short.dtype == np.float32
    np.testing.assert_allclose(short, expected, atol=1e-5)  # layer_norm's epsilon, 1e-5, is beside the variance
    np.testing.assert_allclose(shortened(unit[0], 3, layer_norm=layer_norm), expected[0], atol=1e-5)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_what_has_no_direction_stays_nought(layer_norm: bool) -> None:
    """No division by nought."""
    assert shortened(np.zeros(8, np.float32), 3, layer_norm=layer_norm).tolist() == [0, 0, 0]
