"""Percentiles, spreads, ratios and cosines, against values worked out by hand."""

import base64

import numpy as np
import pytest

from loadtest.figures import (
    cosine_similarity,
    decode_vector,
    latencies,
    percentile,
    ratios,
    spread,
)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 50.0), (95, 95.0), (99, 99.0), (99.1, 100.0), (100, 100.0)]
)
def test_percentile_is_an_observed_value(percent: float, expected: float) -> None:
    """Of 1 to 100 the nth percentile is n."""
    assert percentile([float(value) for value in range(1, 101)], percent) == expected


def test_percentile_of_one_value() -> None:
    """A lone value is every percentile."""
    assert [percentile([7.0], percent) for percent in (0, 50, 100)] == [7.0] * 3


def test_latencies_are_in_milliseconds_and_need_no_order() -> None:
    """Seconds in any order become percentiles in milliseconds."""
    found = latencies([0.003, 0.001, 0.002, 0.010])
    assert found is not None
    assert (found.count, found.p50_ms, found.max_ms) == (4, pytest.approx(2.0), pytest.approx(10.0))


def test_no_latencies() -> None:
    """Nothing measured has no percentiles."""
    assert latencies([]) is None


def test_ratios_compare_round_by_round() -> None:
    """A drift of the machine that hits both sides of a round leaves their ratio alone."""
    found = ratios([100.0, 50.0, 200.0], [200.0, 100.0, 400.0])
    assert (found.median, found.low, found.high) == (0.5, 0.5, 0.5)


def test_ratios_want_whole_rounds() -> None:
    """A round that only one side ran is a mistake."""
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def test_spread() -> None:
    """Median, lowest, highest."""
    found = spread([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high) == (2.0, 1.0, 3.0)


def test_vectors_are_little_endian_float32() -> None:
    """base64 of little-endian float32 gives the numbers back."""
    values = np.array([1.5, -2.0, 0.25], dtype="<f4")
    assert decode_vector(base64.b64encode(values.tobytes()).decode()).tolist() == [1.5, -2.0, 0.25]


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(b"abc").decode()])
def test_broken_vectors_are_refused(text: str) -> None:
    """Neither other text nor a broken length is taken for a vector."""
    with pytest.raises(ValueError):  # noqa: PT011  two libraries word it
        decode_vector(text)


def test_cosine() -> None:
    """Equal direction 1, right angle 0, a zero vector 0."""
    one, other = np.array([3.0, 4.0], np.float32), np.array([4.0, -3.0], np.float32)
    assert cosine_similarity(one, one * 2) == pytest.approx(1.0)
    assert cosine_similarity(one, other) == pytest.approx(0.0)
    assert cosine_similarity(one, np.zeros(2, np.float32)) == 0.0
