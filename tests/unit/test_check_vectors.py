"""Vectors that a bundle brings along to compare a machine with."""

from collections.abc import Sequence

import numpy as np
import pytest

from engine.bundle import BundleError
from engine.model.check_vectors import (
    ACROSS_MACHINES,
    MAX_TEXTS,
    MAX_TOKENS,
    CheckVectors,
    choose_check_texts,
    compare,
)


def text(length: int) -> np.ndarray:
    """Token ids."""
    return np.arange(length, dtype=np.int32)


def unit(*components: float) -> np.ndarray:
    """A unit vector."""
    vector = np.array(components, np.float32)
    return vector / np.linalg.norm(vector)


CHECK = CheckVectors(
    (text(2), text(5)), np.stack([unit(1, 0, 0), unit(0, 1, 0)]), np.stack([unit(1, 0.01, 0), unit(0, 1, 0.01)])
)


def always(*vectors: np.ndarray):  # type: ignore[no-untyped-def]
    """A run that gives these vectors, one after the other."""
    left = iter(vectors)

    def run(texts: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([next(left) for _ in texts])

    return run


def test_a_file_is_read_back() -> None:
    """Ragged ids and both sets of vectors."""
    again = CheckVectors.from_bytes(CHECK.to_bytes())
    assert [one.tolist() for one in again.texts] == [one.tolist() for one in CHECK.texts]
    assert np.array_equal(again.built, CHECK.built)
    assert np.array_equal(again.fp32, CHECK.fp32)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", CHECK.to_bytes()[:200], b"\x80\x04N."])
def test_a_damaged_file_is_named_with_the_remedy(content: bytes) -> None:
    """Cut, empty, or a pickle."""
    with pytest.raises(BundleError, match="build it again"):
        CheckVectors.from_bytes(content)


def test_equal_bytes_are_reported() -> None:
    """And the digest is the same for engines that give the same bytes."""
    here = compare(always(*CHECK.built), CHECK)
    assert here.identical
    assert str(here) == "byte for byte the builder's"
    assert here.lowest == pytest.approx(1)
    assert here.fp32_mean == pytest.approx(1 / np.hypot(1, 0.01))
    assert here.digest == compare(always(*CHECK.built), CHECK).digest


def test_the_lowest_cosine_counts() -> None:
    """One text that differs is enough."""
    here = compare(always(CHECK.built[0], unit(0.1, 1, 0)), CHECK)
    assert not here.identical
    assert here.lowest == pytest.approx(1 / np.hypot(1, 0.1), abs=1e-6)
    assert here.lowest < ACROSS_MACHINES
    assert "0.995" in str(here)


@pytest.mark.parametrize("wrong", [np.full(3, np.nan, np.float32), np.zeros(3, np.float32)])
def test_what_is_no_vector_never_agrees(wrong: np.ndarray) -> None:
    """NaN and zeros."""
    with np.errstate(invalid="ignore"):
        here = compare(always(wrong, CHECK.built[1]), CHECK)
    assert not here.lowest >= ACROSS_MACHINES


def test_texts_are_chosen_from_all_lengths() -> None:
    """The shortest and long ones, few enough for a start."""
    chosen = choose_check_texts([text(length) for length in range(1, 200)])
    assert len(chosen[0]) == 1
    assert len(chosen[-1]) > 100
    assert len(chosen) <= MAX_TEXTS
    assert sum(map(len, chosen)) <= MAX_TOKENS
    assert [len(one) for one in choose_check_texts([text(9_000)])] == [9_000]
