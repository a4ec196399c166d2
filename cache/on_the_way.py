"""Checked hits whose labels are on their way, and what the purse would owe if all of them violated. No I/O."""

import time
from typing import Final

LOST_AFTER_S: Final = 120.0  # a hit whose label has not come by then is no longer waited for


class HitsOnTheWay:
    """By the look-up's ticket: since when, and the price, 1 / (the probability with which it was drawn)."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, float]] = {}

    @property
    def owed(self) -> float:
        """The sum of the prices of those that are still waited for."""
        now = time.monotonic()
        for ticket in [ticket for ticket, (since, _) in self._waiting.items() if now - since > LOST_AFTER_S]:
            del self._waiting[ticket]
        return sum(price for _, price in self._waiting.values())

    def add(self, ticket: int, price: float) -> None:
        """A hit was served and is to be checked."""
        self._waiting[ticket] = (time.monotonic(), price)

    def still_waits(self, ticket: int) -> None:
        """A label will come, however late: an engine that is away must not make room for more hits."""
        if ticket in self._waiting:
            self.add(ticket, self._waiting[ticket][1])

    def arrived(self, ticket: int) -> None:
        """A hit has its label, or will have none."""
        self._waiting.pop(ticket, None)
