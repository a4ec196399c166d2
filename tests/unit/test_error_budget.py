"""The purse of violations: refilling, checking, tripping, and the bound on what is served before the breaker opens."""

import random

import pytest

from cache.semantic.error_budget import ErrorBudget, ErrorBudgetSettings
from tests.bounds import violations_before_opening


def test_hits_pay_in_up_to_the_limit() -> None:
    """A long clean past fills the budget no further than its limit."""
    budget = ErrorBudget.start(ErrorBudgetSettings())
    for _ in range(10_000):
        budget.add_hit()
    assert budget.balance == ErrorBudgetSettings().max_balance


def test_checks_are_closer_the_less_is_left() -> None:
    """Every hit is checked at first; with a full budget one in thirteen."""
    settings = ErrorBudgetSettings()
    assert settings.verify_probability(settings.start_balance) == 1.0
    assert settings.verify_probability(settings.max_balance) == pytest.approx(0.075)


def test_a_found_violation_costs_what_it_stands_for() -> None:
    """Found with probability 1/4, it stands for four."""
    budget = ErrorBudget(ErrorBudgetSettings(), balance=10.0)
    budget.add_check(True, 0.25)
    assert budget.balance == pytest.approx(6.0)
    assert not budget.is_spent


def test_violations_open_the_breaker() -> None:
    """A fresh budget is spent by two violations."""
    budget = ErrorBudget.start(ErrorBudgetSettings())
    for _ in range(2):
        assert not budget.is_spent
        budget.add_check(True, 1.0)
    assert budget.is_spent


@pytest.mark.parametrize(("balance", "share"), [(4.0, 1.0), (15.0, 1.0), (15.0, 0.3), (40.0, 1.0)])
def test_the_bound_holds_under_drift(balance: float, share: float) -> None:
    """In 19 of 20 runs fewer violations are served before the breaker opens than the bound says."""
    settings, draw, runs, over = ErrorBudgetSettings(), random.Random(3), 400, 0
    bound = violations_before_opening(settings, balance, share)
    for _ in range(runs):
        budget, served = ErrorBudget(settings, balance, hits=100_000), 0
        while not budget.is_spent:
            probability, is_violation = budget.verify_probability, draw.random() < share
            budget.add_hit()
            served += is_violation
            if draw.random() < probability:
                budget.add_check(is_violation, probability)
        over += served > bound
    assert over / runs < 0.09


def test_no_bound_below_alpha() -> None:
    """With a budget that is refilled faster than it is spent the breaker may never open."""
    with pytest.raises(ValueError, match="above alpha"):
        violations_before_opening(ErrorBudgetSettings(), 4.0, share=0.05)


def test_state_survives() -> None:
    """A budget written and read back is the same one."""
    budget = ErrorBudget.start(ErrorBudgetSettings())
    budget.add_hit()
    budget.add_check(True, 1.0)
    assert ErrorBudget.from_state(ErrorBudgetSettings(), budget.to_state()) == budget
