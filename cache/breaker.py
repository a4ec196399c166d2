"""A circuit breaker: stop asking what does not answer, and find out cheaply when it does again. Pure; no I/O.

closed: everything passes. After `failures_to_open` failures in a row it opens: nothing passes for `open_s`,
doubling up to `max_open_s` while trials fail. Then half-open: one trial passes; its success closes the breaker.
A call slower than its limit counts as a failure, because a cache that is slow is worse than none.
"""

import time
from collections.abc import Callable


class Breaker:
    """One breaker for one dependency, used from one event loop."""

    def __init__(
        self,
        failures_to_open: int = 3,
        open_s: float = 0.5,
        max_open_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures_to_open = failures_to_open
        self._first_open_s = open_s
        self._open_s = open_s
        self._max_open_s = max_open_s
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trial_running = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at >= self._open_s else "open"

    def allow(self) -> bool:
        """Whether a call may be made now; in half-open only the first asker may."""
        if self._opened_at is None:
            return True
        if self._trial_running or self._clock() - self._opened_at < self._open_s:
            return False
        self._trial_running = True
        return True

    def succeeded(self) -> None:
        """A call answered in time."""
        self._failures = 0
        self._opened_at = None
        self._trial_running = False
        self._open_s = self._first_open_s

    def failed(self) -> None:
        """A call failed or took too long."""
        self._failures += 1
        if self._trial_running:
            self._trial_running = False
            self._open_s = min(self._open_s * 2, self._max_open_s)
            self._opened_at = self._clock()
        elif self._opened_at is None and self._failures >= self._failures_to_open:
            self._opened_at = self._clock()
            # a call that was under way when the breaker opened does not prolong the opening
