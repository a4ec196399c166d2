"""What certificate and error budget guarantee, computed from their own code: figures that tests and documents state."""

import math

from cache.semantic.certificate import BettingTest
from cache.semantic.error_budget import ErrorBudgetSettings

GRID = 0.05  # balances are rounded up to it


def clean_labels_needed(alpha: float, beta: float, levels: int = 1) -> int:
    """How many labels without any violation prove one of so many levels."""
    test = BettingTest(alpha)
    while not test.is_proven(beta / levels):
        test.add(False, 1.0)
    return test.labels


def violations_before_opening(
    settings: ErrorBudgetSettings, balance: float, share: float = 1.0, delta: float = 0.05
) -> int:
    """How many violations are served before the breaker opens, not exceeded with probability 1 - delta.

    From the moment every hit violates with probability `share` (above alpha), the budget at `balance`.
    Propagates the distribution of the balance hit by hit over a grid, rounded up, its limit at the widest.
    Raises ValueError when `share` is not above alpha: such a budget may never be spent.
    """
    if not settings.alpha < share <= 1:
        raise ValueError("the bound exists for shares of violations above alpha")
    cells = math.ceil(settings.max_balance / GRID)
    mass = [0.0] * (cells + 1)
    mass[min(cells, math.ceil(balance / GRID))] = 1.0
    opened, hits = 0.0, 0
    while 1 - opened > delta:
        hits += 1
        after = [0.0] * (cells + 1)
        for cell in range(1, cells + 1):
            if mass[cell] < 1e-12:
                continue
            value = cell * GRID
            checked = settings.verify_probability(value)
            paid = min(settings.max_balance, value + settings.alpha)
            left = math.ceil(round((paid - 1 / checked) / GRID, 6))
            found = share * checked
            after[min(cells, math.ceil(round(paid / GRID, 6)))] += mass[cell] * (1 - found)
            if left <= 0:
                opened += mass[cell] * found
            else:
                after[left] += mass[cell] * found
        mass = after
    return math.ceil(hits * share)
