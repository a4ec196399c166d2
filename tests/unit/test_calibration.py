"""The label table: what any tau and fidelity would have meant."""

import json
from typing import Any

import pytest

from cache.semantic.calibration import BINS, HALVED_AT, LabelTable, bin_of, lower_edge, reading, wilson


def table_of(*labels: tuple[float, float, float], empty: int = 0) -> LabelTable:
    """A table of (z, true similarity, weight)."""
    table = LabelTable()
    for z, similarity, weight in labels:
        table.add(z, similarity, weight)
    table.add_empty(empty)
    return table


@pytest.mark.parametrize(
    ("similarity", "index"),
    [(-1, 0), (0.7999, 0), (0.80, 1), (0.8049, 1), (0.805, 2), (0.92, 25), (0.9949, 39), (0.995, 40), (1, 40), (2, 40)],
)
def test_bins_hold_their_lower_edge(similarity: float, index: int) -> None:
    """A similarity on an edge belongs above it, whatever floating point makes of the edge."""
    assert bin_of(similarity) == index


def test_every_edge_is_in_its_own_bin() -> None:
    """Edges and bins agree for all of them."""
    assert [bin_of(lower_edge(index)) for index in range(BINS)] == list(range(BINS))


def test_shares_are_of_all_lookups() -> None:
    """Labels under tau and look-ups that found nothing lower the reused share, and only that."""
    table = table_of((0.96, 0.97, 1), (0.96, 0.91, 1), (0.90, 0.85, 1), (0.5, 0.5, 1), empty=4)
    answer = table.what_if(0.95, 0.92)
    assert (answer.reused, answer.violations) == (2 / 8, 1 / 2)
    assert table.what_if(0.95, 0.90).violations == 0
    assert table.what_if(0.85, 0.92).violations == pytest.approx(2 / 3)


def test_checked_hits_stand_for_the_unchecked() -> None:
    """A hit checked with probability 1/10 weighs ten misses."""
    table = table_of((0.97, 0.98, 1 / 0.1), *[(0.85, 0.85, 1.0)] * 10)
    assert table.what_if(0.95, 0.92).reused == pytest.approx(0.5)
    assert table.labels == 11


def test_between_edges_the_answer_is_never_rosier() -> None:
    """tau and fidelity are taken up to the next edge: less reuse, more violations."""
    table = table_of((0.952, 0.922, 1))
    assert table.what_if(0.95, 0.92).reused == 1
    assert table.what_if(0.951, 0.92).reused == 0
    assert table.what_if(0.95, 0.921).violations == 1


def test_nothing_reused_has_no_violation_share() -> None:
    """Where nothing clears tau, and in an empty table, the share of violations is unknown rather than nought."""
    assert LabelTable().what_if(0.9, 0.92).violations is None
    assert table_of((0.85, 0.99, 1)).what_if(0.9, 0.92).violations is None


def test_curve_falls_with_tau() -> None:
    """The stricter tau, the less is reused; every fidelity asked for has its own column."""
    table = table_of(*[(0.8 + 0.002 * i, 0.79 + 0.002 * i, 1) for i in range(100)])
    curve = table.curve((0.9, 0.93))
    reused = [point["reused"] for point in curve]
    assert reused == sorted(reused, reverse=True)
    assert len(curve) == BINS - 1
    assert set(curve[0]["violations"]) == {"0.9", "0.93"}
    for point in curve:
        assert point["violations"]["0.9"] is None or point["violations"]["0.9"] <= point["violations"]["0.93"]


def test_bins_tell_the_exact_mean() -> None:
    """The mean true similarity is that of the labels, not of the bins' middles."""
    (found,) = table_of((0.951, 0.961, 1), (0.954, 0.949, 3)).bins()
    assert found["z_from"] == 0.95
    assert found["weight"] == 4
    assert found["mean_true_similarity"] == pytest.approx((0.961 + 3 * 0.949) / 4)
    assert found["true_from"] == [[0.945, 3], [0.96, 1]]


def test_it_follows_the_traffic() -> None:
    """Past the bound everything is halved, so that what was long ago weighs little; shares stay what they are."""
    table = LabelTable()
    for _ in range(int(HALVED_AT)):
        table.add(0.85, 0.99)
    before = table.what_if(0.8, 0.92)
    for _ in range(int(HALVED_AT)):
        table.add(0.95, 0.95)
    assert table.total <= HALVED_AT
    assert table.labels == pytest.approx(table.total)
    assert before.reused == 1
    assert 0.6 < table.what_if(0.9, 0.92).reused < 1
    assert table.bins()[0]["mean_true_similarity"] == pytest.approx(0.99)


def test_one_label_cannot_outweigh_all() -> None:
    """A probability of almost nought does not push everything else out."""
    table = table_of((0.9, 0.9, 1e12))
    assert table.total == 1000


def test_state_survives_json_and_is_small() -> None:
    """A full table written and read back is the same, in some 30 kB."""
    table = LabelTable()
    for row in range(BINS):
        for column in range(BINS):
            table.add(lower_edge(row), lower_edge(column), 1 + row / 3)
    table.add_empty(7)
    text = json.dumps(table.to_state())
    again = LabelTable.from_state(json.loads(text))
    assert len(text) < 40_000
    assert again.to_state() == table.to_state()
    assert again.what_if(0.9, 0.92).violations == pytest.approx(table.what_if(0.9, 0.92).violations, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"cells": [[41, 0, 1.0]]},
        {"cells": [[-1, 0, 1.0]]},
        {"cells": [["a", 0, 1.0]]},
        {"cells": [[0, 0]]},
        {"cells": [[0, 0, -1.0]]},
        {"cells": [[0, 0, 1e12]]},
        {"cells": None},
        {"sums": [0.0]},
        {"sums": [None] * BINS},
        {"empty": "x"},
        {"labels": float("nan")},
    ],
)
def test_damaged_states_are_refused(change: dict[str, Any]) -> None:
    """What no table wrote is refused with an exception its reader expects."""
    state = table_of((0.9, 0.9, 1)).to_state() | change
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        LabelTable.from_state(state)


def test_reading_is_plain_english() -> None:
    """What the tau in force means; where none is, how far the labels would let one go; and when they say nothing."""
    table = table_of(*[(0.96, 0.97, 1)] * 98, *[(0.96, 0.91, 1)] * 2, *[(0.85, 0.7, 1)] * 100)
    assert reading(table, 0.955, 0.92, 0.05) == (
        "at tau 0.955 50.0 % of look-ups would be reused, 2.0 % of them below 0.92 (200 labels)"
    )
    assert reading(table, None, 0.92, 0.05).startswith("nothing is served; at tau 0.855 50.0 % of look-ups")
    assert "at no tau" in reading(table, None, 0.98, 0.05)
    assert reading(table, 0.99, 0.92, 0.05) == "at tau 0.990 nothing would be reused (200 labels)"
    assert reading(LabelTable(), 0.9, 0.92, 0.05) == "no labels yet: nothing can be said"


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (0.5, 10, 0.2366, 0.7634), (0.1, 100, 0.0552, 0.1744), (1, 5, 0.5655, 1), (0, 0, 0, 1)],
)
def test_wilsons_interval(share: float, n: float, low: float, high: float) -> None:
    """Values of published tables; without labels nothing is known."""
    assert wilson(share, n) == pytest.approx((low, high), abs=1e-4)


def test_unequal_weights_count_for_fewer_labels() -> None:
    """Ten labels of weight 1 and one of weight 10 say less than eleven of equal weight: Kish's effective size."""
    equal = table_of(*[(0.95, 0.95, 1.0)] * 11).what_if(0.95, 0.92)
    unequal = table_of(*[(0.95, 0.95, 1.0)] * 10, (0.95, 0.95, 10)).what_if(0.95, 0.92)
    assert equal.labels == pytest.approx(11)
    assert unequal.labels == pytest.approx(20**2 / 110)
    assert equal.interval is not None
    assert unequal.interval is not None
    assert unequal.interval[1] > equal.interval[1]
    assert table_of((0.85, 0.99, 1)).what_if(0.9, 0.92).interval is None


def test_halving_keeps_the_share_and_doubles_the_doubt() -> None:
    """What is forgotten no longer counts as a label."""
    table = table_of(*[(0.95, 0.95, 2.0)] * 100)
    table.add_empty(int(HALVED_AT))
    assert table.what_if(0.95, 0.92).labels == pytest.approx(50)


def test_a_state_without_squares_is_read() -> None:
    """An earlier version kept none: its labels count as if they had weighed the same; shares stay what they are."""
    table = table_of(*[(0.95, 0.95, 2.0)] * 30, *[(0.9, 0.8, 2.0)] * 10)
    state = table.to_state()
    del state["squares"]
    again = LabelTable.from_state(state)
    assert again.what_if(0.95, 0.92).labels == pytest.approx(30)
    assert again.what_if(0.9, 0.92).violations == pytest.approx(0.25)
    for wrong in ([1.0], [float("nan")] * BINS, [-1.0] * BINS, ["x"] * BINS):
        with pytest.raises((ValueError, TypeError)):
            LabelTable.from_state(state | {"squares": wrong})
