"""Whose vectors are served where engines have different fingerprints, by a clock of the test's own."""

import pytest

from gateway.engines.fingerprints import ABSENT_S, FIRST_S, MAJORITY_S, FingerprintChoice
from tests.fake_time import Time

OLD, NEW = "0" * 32, "f" * 32
TICK_S = 0.25


class Fleet:
    """Engines by name: fingerprint and whether each is ready; `run` lets time pass and lists every change."""

    def __init__(self, configured: str | None = None, **engines: tuple[str, bool]) -> None:
        self.time = Time()
        self.choice = FingerprintChoice(configured, self.time.clock)
        self.engines = dict(engines)
        self.changes: list[str | None] = []

    def run(self, seconds: float = 0.0, all_seen: bool = True) -> str | None:
        end = self.time.now + seconds
        while True:
            before = self.choice.current
            current = self.choice.update(list(self.engines.values()), all_seen)
            if current != before:
                self.changes.append(current)
            if self.time.now >= end:
                return current
            self.time.now += TICK_S


def three_old() -> Fleet:
    """Three ready engines with the old model, which is in service."""
    fleet = Fleet(a=(OLD, True), b=(OLD, True), c=(OLD, True))
    assert fleet.run() == OLD
    return fleet


@pytest.mark.parametrize("pause_s", [0.5, 3.0, 30.0])
def test_rolling_change_changes_the_fingerprint_once(pause_s: float) -> None:
    """Engine after engine restarts with a new model: one change, and some engine could always serve."""
    fleet = three_old()
    for name in "abc":
        fleet.engines[name] = (OLD, False)
        fleet.run(pause_s)
        assert (fleet.choice.current, True) in fleet.engines.values(), f"none served while {name} restarted"
        fleet.engines[name] = (NEW, True)
        fleet.run(pause_s)
        assert (fleet.choice.current, True) in fleet.engines.values()
    fleet.run(2 * MAJORITY_S)
    assert fleet.changes == [OLD, NEW]


def test_change_that_is_rolled_back_halfway_changes_nothing() -> None:
    """A new model on one of three engines, and then no more, is never served."""
    fleet = three_old()
    fleet.engines["a"] = (NEW, True)
    fleet.run(100)
    fleet.engines["a"] = (OLD, True)
    fleet.run(100)
    assert fleet.changes == [OLD]


def test_majority_must_last() -> None:
    """Others that are the majority for a moment, while old ones restart, do not take over; after MAJORITY_S they do."""
    fleet = three_old()
    fleet.engines |= {"a": (NEW, True), "b": (NEW, True)}
    assert fleet.run(MAJORITY_S - 1) == OLD
    fleet.engines["b"] = (OLD, True)
    fleet.run(1)
    fleet.engines["b"] = (NEW, True)
    assert fleet.run(MAJORITY_S - 1) == OLD
    assert fleet.run(1) == NEW


def test_short_loss_of_all_old_ones_beside_one_on_trial_changes_nothing() -> None:
    """One engine with a new model beside three: the three being away for less than ABSENT_S is no change of model."""
    fleet = three_old()
    fleet.engines["trial"] = (NEW, True)
    fleet.run(5)
    for name in "abc":
        fleet.engines[name] = (OLD, False)
    assert fleet.run(ABSENT_S - 1) == OLD
    for name in "abc":
        fleet.engines[name] = (OLD, True)
    assert fleet.run(100) == OLD
    for name in "abc":
        fleet.engines[name] = (OLD, False)
    assert fleet.run(ABSENT_S) == NEW, "answers by another model are better than none for long"


def test_two_engines_that_restart_in_turn_do_not_flap() -> None:
    """Two engines with a model each: the served one going is one change, its coming back none, however often."""
    fleet = Fleet(a=(OLD, True), b=(NEW, True))
    first = fleet.run()
    name = "a" if first == OLD else "b"
    for _ in range(10):
        fleet.engines[name] = (str(first), False)
        fleet.run(2)
        fleet.engines[name] = (str(first), True)
        fleet.run(2)
    assert fleet.changes == [first, NEW if first == OLD else OLD]


def test_configured_fingerprint_wins() -> None:
    """Whatever most engines have, and also where none has it."""
    fleet = Fleet(configured=OLD, a=(NEW, True), b=(NEW, True))
    assert fleet.run(100) == OLD


def test_first_choice_waits_for_all_to_be_looked_at_but_not_for_long() -> None:
    """The engine that answers first does not decide; one that never answers does not keep the others waiting."""
    fleet = Fleet(a=(NEW, True))
    assert fleet.run(all_seen=False) is None
    fleet.engines |= {"b": (OLD, True), "c": (OLD, True)}
    assert fleet.run(all_seen=True) == OLD
    fleet = Fleet(a=(NEW, True))
    assert fleet.run(FIRST_S, all_seen=False) == NEW


def test_where_none_is_ready_yet_the_model_is_known_all_the_same() -> None:
    """Cached vectors of the fingerprint that most engines have are served before any engine is ready."""
    fleet = Fleet(a=(OLD, False), b=(OLD, False), c=(NEW, False))
    assert fleet.run() == OLD
