"""How long a run should take: by the lengths of its texts, and by what runs took lately."""

import pytest

from engine.batching.run_times import RunTimes, load


def test_time_grows_with_the_square_of_a_length() -> None:
    """1,000 tokens take a second in short texts, twice as long in one; a token of 8,000 takes nine times as long."""
    times = RunTimes(tokens_per_s=1000.0, double_cost_tokens=1000.0)
    assert times.expected_s(load([10] * 100)) == pytest.approx(1.01)
    assert times.expected_s(load([1000])) == pytest.approx(2.0)
    assert times.expected_s(load([8000])) == pytest.approx(8 * 9.0)


def test_texts_of_a_batch_do_not_see_each_other() -> None:
    """Two texts take twice the time of one."""
    times = RunTimes(tokens_per_s=1000.0, double_cost_tokens=1000.0)
    assert times.expected_s(load([1000, 1000])) == pytest.approx(2 * times.expected_s(load([1000])))


def test_by_default_time_grows_with_the_length_alone() -> None:
    """As for models of short texts."""
    assert RunTimes(tokens_per_s=100.0).expected_s(load([500])) == 5.0


@pytest.mark.parametrize("lengths", [[10] * 30, [8000], [3000, 40]])
def test_runs_of_any_length_measure_the_machine(lengths: list[int]) -> None:
    """On a machine half as fast as guessed, runs of short texts and of long ones both say so, for all lengths."""
    times = RunTimes(tokens_per_s=1000.0, double_cost_tokens=1000.0)
    real = RunTimes(tokens_per_s=500.0, double_cost_tokens=1000.0)
    for _ in range(300):
        times.measured(load(lengths), real.expected_s(load(lengths)))
    for length in (8, 512, 8000):
        assert times.expected_s(load([length])) == pytest.approx(real.expected_s(load([length])), rel=1e-3)


def test_the_reported_rate_is_of_the_texts_there_were() -> None:
    """Gateways reckon with it: of long texts fewer tokens are computed in a second."""
    times = RunTimes(tokens_per_s=1000.0, double_cost_tokens=1000.0)
    for _ in range(300):
        times.measured(load([9000]), 90.0)
    assert times.tokens_per_s == pytest.approx(100.0, rel=1e-3)
