"""The monotone map from z to similarity."""

import random
from itertools import pairwise

import pytest

from cache.calibration import IDENTITY, fit_map


def test_without_labels_the_prior_stays() -> None:
    """No label, no change."""
    fitted = fit_map([])
    assert [fitted(z) for z in (0.5, 0.7, 0.93, 1.0)] == pytest.approx([0.5, 0.7, 0.93, 1.0], abs=1e-6)


def test_it_rises_and_stays_at_most_one() -> None:
    """Noisy labels give a rising map."""
    draw = random.Random(0)
    fitted = fit_map([(z, min(1.0, z - 0.05 + draw.gauss(0, 0.1))) for z in (draw.uniform(0.6, 1) for _ in range(300))])
    values = [fitted(z / 200) for z in range(201)]
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    assert max(values) <= 1


def test_it_follows_a_bias() -> None:
    """Where the truth is 0.05 lower than predicted, many labels say so."""
    fitted = fit_map([(0.6 + 0.4 * step / 2000, 0.55 + 0.4 * step / 2000) for step in range(2000)])
    assert fitted(0.9) == pytest.approx(0.85, abs=0.01)


def test_few_labels_move_it_little() -> None:
    """Three bad labels do not overturn the prior."""
    assert fit_map([(0.95, 0.5)] * 3)(0.95) > 0.8


def test_beyond_its_knots() -> None:
    """Outside the knots it goes on by the distance."""
    assert IDENTITY(-0.2) == pytest.approx(-0.2)
    assert IDENTITY(1.2) == 1.0
