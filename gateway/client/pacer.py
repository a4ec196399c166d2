"""How many requests may be out at once: one more a round while all goes well, half at a sign of overload (AIMD)."""

import asyncio
from collections.abc import Callable

HOLD_S = 1.0  # signs of overload within this time of a halving belong to what was halved for


class Pacer:
    """Places for requests, between 1 and `ceiling`, starting at `start`. One event loop."""

    def __init__(self, ceiling: int, clock: Callable[[], float], start: int = 2) -> None:
        if ceiling < 1:
            raise ValueError("at least one request must be allowed at once")
        self._ceiling = ceiling
        self._limit = float(min(start, ceiling))
        self._clock = clock
        self._hold_until = -float("inf")
        self._out = 0
        self._freed = asyncio.Event()

    @property
    def limit(self) -> int:
        """Requests allowed at once now."""
        return int(self._limit)

    async def acquire(self) -> None:
        """Wait for a place and take it."""
        while self._out >= self.limit:
            self._freed.clear()
            await self._freed.wait()
        self._out += 1

    def release(self) -> None:
        """Give a place back."""
        self._out -= 1
        self._freed.set()

    def went_well(self) -> None:
        """A request was answered: 1/limit of a place more, so one a round."""
        self._limit = min(self._limit + 1 / self._limit, self._ceiling)

    def overloaded(self) -> None:
        """The gateway refused or failed: half the places, at most once in HOLD_S."""
        if self._clock() >= self._hold_until:
            self._limit = max(self._limit / 2, 1.0)
            self._hold_until = self._clock() + HOLD_S
