"""The simulation of calls to faulty engines, by the gateway's own choosing code: what must hold at any size."""

import pytest

from tests.simulation.routing import FAULTS, Fault, Outcome, simulate

SECONDS = 24.0
SHARE_OF_FAULTY: dict[Fault, float] = {"none": 0.0, "slow": 0.2, "failing": 0.05, "frozen": 0.03, "killed": 0.01}


def ours(fault: Fault, engines: int = 3) -> Outcome:
    """One run of the gateway's own choice."""
    return simulate(engines, fault, "ours", SECONDS)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_call_is_lost_to_one_faulty_engine_of_three(fault: Fault) -> None:
    """All are answered within the deadline, and the faulty engine gets few of them."""
    outcome = ours(fault)
    assert outcome.calls > 500
    assert outcome.lost == 0
    assert outcome.faulty_share <= SHARE_OF_FAULTY[fault]
    assert outcome.extra_share <= 0.02


def test_slow_engine_keeps_its_share_of_the_work_and_no_more() -> None:
    """Round robin sends a slow engine as much as the others, and most of that is lost."""
    mine, other = ours("slow"), simulate(3, "slow", "round robin", SECONDS)
    assert mine.p99_ms < other.p99_ms / 2
    assert other.lost > 0.05 * other.calls


def test_calls_wait_less_than_by_round_robin_when_all_are_healthy() -> None:
    """The least loaded engine answers sooner than the next one."""
    mine, other = ours("none", 10), simulate(10, "none", "round robin", SECONDS)
    assert mine.p50_ms < other.p50_ms
    assert mine.p99_ms < other.p99_ms
