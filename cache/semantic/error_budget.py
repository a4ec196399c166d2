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
`tests/bounds.py` computes the quantile of their number exactly, to a grid.
"""

from dataclasses import dataclass, replace
from typing import Any


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
