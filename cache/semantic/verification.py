"""Pending verifications: hits to be compared with the recomputed vector, and what they may cost the error budget.

Kept by each gateway for each namespace, by the ticket of the look-up.
"""

import time
from typing import Final

EXPIRES_AFTER_S: Final = 120.0  # a verification whose label has not come by then counts as lost


class PendingVerifications:
    """By ticket: since when, and the cost if the hit violates, 1 / (the probability with which it was drawn)."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, float]] = {}

    @property
    def cost(self) -> float:
        """What the error budget would lose if all pending hits violated; expired ones are dropped."""
        now = time.monotonic()
        for ticket in [ticket for ticket, (since, _) in self._waiting.items() if now - since > EXPIRES_AFTER_S]:
            del self._waiting[ticket]
        return sum(cost for _, cost in self._waiting.values())

    def add(self, ticket: int, cost: float) -> None:
        """A hit was served and will be verified."""
        self._waiting[ticket] = (time.monotonic(), cost)

    def keep(self, ticket: int) -> None:
        """Still pending: an engine that is away must not make room for more hits."""
        if ticket in self._waiting:
            self.add(ticket, self._waiting[ticket][1])

    def settle(self, ticket: int) -> None:
        """A hit has its label, or will have none."""
        self._waiting.pop(ticket, None)
