"""Arrivals and draws: seeded, of the stated law, in order."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from loadtest.workload import Law, Pace, arrivals, draw, due_times, zipf_shares

TEXTS = [f"text {number}" for number in range(50)]


def test_replay_keeps_the_order_and_starts_over() -> None:
    """Replayed texts come in the file's order, from the start again at its end."""
    assert list(islice(draw(["a", "b", "c"], Law.REPLAY), 7)) == ["a", "b", "c", "a", "b", "c", "a"]


def test_same_seed_same_load() -> None:
    """Two plans with the same seed are equal, arrival by arrival."""

    def plan(seed: int) -> list[tuple[float, list[str]]]:
        planned = arrivals(TEXTS, rate=50, seconds=2, batch=2, law=Law.ZIPF, seed=seed)
        return [(arrival.due_s, arrival.texts) for arrival in planned]

    assert plan(7) == plan(7)
    assert plan(7) != plan(8)


def test_seed_of_the_times_does_not_depend_on_the_texts() -> None:
    """Another law over the same seed keeps the arrival times, so that runs can be compared."""
    zipf = [a.due_s for a in arrivals(TEXTS, rate=50, seconds=2, law=Law.ZIPF)]
    assert zipf == [a.due_s for a in arrivals(TEXTS, rate=50, seconds=2, law=Law.REPLAY)]


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_zipf_frequencies(exponent: float) -> None:
    """Over many draws each rank's share is close to 1 / rank ** exponent."""
    draws = 100_000
    counts = Counter(islice(draw(TEXTS, Law.ZIPF, exponent=exponent, seed=1), draws))
    seen = np.array([count / draws for _, count in counts.most_common()])
    assert np.abs(seen - zipf_shares(len(TEXTS), exponent)).max() < 0.006  # about four standard deviations


def test_zipf_shares_by_hand() -> None:
    """Three ranks with exponent 1 are as 6 : 3 : 2."""
    assert zipf_shares(3, 1.0) == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_uniform_frequencies() -> None:
    """Uniform draws reach every text about equally often."""
    draws = 50_000
    counts = Counter(islice(draw(TEXTS, Law.UNIFORM, exponent=2.0, seed=1), draws))
    assert set(counts) == set(TEXTS)
    assert max(counts.values()) < 1.2 * draws / len(TEXTS)


def test_constant_pace() -> None:
    """Constant arrivals are evenly spaced and all before the end."""
    assert list(due_times(4, 1.0, Pace.CONSTANT)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_pace() -> None:
    """Poisson gaps have the mean and the spread of an exponential law."""
    times = np.array(list(due_times(100, 200.0, Pace.POISSON, seed=3)))
    gaps = np.diff(times)
    assert times[0] >= 0
    assert times[-1] < 200.0
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)


def test_batches_take_consecutive_draws() -> None:
    """A request of several texts takes the next ones in order."""
    planned = arrivals(["a", "b", "c"], rate=2, seconds=1, batch=2, pace=Pace.CONSTANT)
    assert [arrival.texts for arrival in planned] == [["a", "b"], ["c", "a"]]
