"""The error budget: how many violations a namespace may still serve, and how closely its hits are checked.

Every hit adds `alpha` to the balance; every violation that a check finds takes 1 / (the probability it was checked
with), which is what it stands for on average. At nought the breaker opens. The balance is at most

    limit = min(max_balance, start_balance + growth * alpha * hits)

so a long clean past cannot be saved up and spent at once; hits are checked with the probability

    pi = min(1, max(floor, caution / balance))

chosen before anything is known of the hit, and never on load. A check costs engine time, not the client's.

A namespace whose breaker has opened before starts lower, at start_balance / (1 + openings), so that a tenant that
earns a certificate again and again only to spend it is served fewer violations each time (`after`).

Bound. What the checks take out is an unbiased count of the violations served, so at the opening the expected
violations since the balance was B are at most (B + 1 / pi) / (1 - alpha / q) when each hit violates with probability q.
`violations_before_opening` computes the quantile of their number exactly, to the grid.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

GRID = 0.05  # balances are rounded up to it when the bound is computed


@dataclass(frozen=True, slots=True)
class ErrorBudgetSettings:
    """`verify_floor`: the least share of hits checked. The rest is explained at the top."""

    alpha: float = 0.05
    start_balance: float = 2.0
    growth: float = 0.3
    max_balance: float = 40.0
    caution: float = 3.0
    verify_floor: float = 0.075

    def after(self, openings: int) -> "ErrorBudgetSettings":
        """The settings of a namespace whose breaker has opened so often."""
        return replace(self, start_balance=self.start_balance / (1 + openings))

    def limit(self, hits: int) -> float:
        """The largest balance after so many hits."""
        return min(self.max_balance, self.start_balance + self.growth * self.alpha * hits)

    def verify_probability(self, balance: float) -> float:
        """The probability with which the next hit is checked."""
        return min(1.0, max(self.verify_floor, self.caution / max(balance, 1e-9)))


@dataclass(slots=True)
class ErrorBudget:
    """The balance of one namespace under one certificate."""

    settings: ErrorBudgetSettings
    balance: float
    hits: int = 0
    verified: int = 0
    violations: int = 0

    @classmethod
    def start(cls, settings: ErrorBudgetSettings) -> "ErrorBudget":
        """A fresh budget."""
        return cls(settings, settings.start_balance)

    @property
    def verify_probability(self) -> float:
        """The probability with which the next hit is checked."""
        return self.settings.verify_probability(self.balance)

    @property
    def is_spent(self) -> bool:
        """Whether the breaker opens."""
        return self.balance <= 0

    def add_hit(self) -> None:
        """A neighbour's vector was served."""
        self.hits += 1
        self.balance = min(self.settings.limit(self.hits), self.balance + self.settings.alpha)

    def add_check(self, is_violation: bool, probability: float) -> None:
        """A hit that had been drawn with `probability` was compared with the engine's vector."""
        self.verified += 1
        if is_violation:
            self.violations += 1
            self.balance -= 1 / max(probability, self.settings.verify_floor)

    def to_state(self) -> list[float]:
        """Numbers that `from_state` reads; the settings are not part of them."""
        return [self.balance, self.hits, self.verified, self.violations]

    @classmethod
    def from_state(cls, settings: ErrorBudgetSettings, state: list[Any]) -> "ErrorBudget":
        """The budget that `to_state` wrote. Raises ValueError or TypeError on anything else."""
        balance, hits, verified, violations = state
        return cls(settings, float(balance), int(hits), int(verified), int(violations))


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
