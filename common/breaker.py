"""A circuit breaker: stop calling what fails, and find out cheaply when it works again. Pure; no I/O.

    closed     every call passes; `failures_to_open` failures in a row open it
    open       no call passes for `open_s`
    half-open  at most `trial_calls` calls pass at a time; as many successes close it, one failure opens it again,
               for twice as long as before up to `max_open_s`

A caller checks `allow()`, and after a call reports `succeeded()`, `failed()` or, when it proved nothing, `abandoned()`.
For one event loop; no locks.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class CircuitState(enum.StrEnum):
    """The states of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and how carefully it closes again. `max_open_s` None: always `open_s`."""

    failures_to_open: int = 5
    open_s: float = 10.0
    trial_calls: int = 1
    max_open_s: float | None = None

    def __post_init__(self) -> None:
        if self.failures_to_open < 1 or self.trial_calls < 1 or self.open_s <= 0:
            raise ValueError("failures_to_open and trial_calls are at least 1, open_s is above 0")
        if self.max_open_s is not None and self.max_open_s < self.open_s:
            raise ValueError("max_open_s is not below open_s")


class CircuitBreaker:
    """One breaker for one dependency."""

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self.changes = 0  # of state so far, those by the passing of time left out
        self._policy = policy
        self._clock = clock
        self._failures_in_row = 0
        self._opened_at: float | None = None  # None while closed
        self._open_s = policy.open_s
        self._trials_out = 0
        self._trials_passed = 0

    @property
    def state(self) -> CircuitState:
        """The state now; open becomes half-open by the passing of time alone."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self.open_left_s > 0 else CircuitState.HALF_OPEN

    @property
    def open_left_s(self) -> float:
        """Seconds until a trial may pass; 0 or less when the breaker is not open."""
        return 0.0 if self._opened_at is None else self._opened_at + self._open_s - self._clock()

    def allow(self) -> bool:
        """Whether a call may be made now; if so in half-open, it is a trial."""
        if self._opened_at is None:
            return True
        if self.open_left_s > 0 or self._trials_out >= self._policy.trial_calls:
            return False
        self._trials_out += 1
        return True

    def succeeded(self) -> None:
        """A call succeeded."""
        self._failures_in_row = 0
        if self._opened_at is None:
            return
        self._trials_out = max(0, self._trials_out - 1)
        self._trials_passed += 1
        if self._trials_passed >= self._policy.trial_calls:
            self._open_s = self._policy.open_s
            self._change(opened_at=None)

    def failed(self) -> None:
        """A call failed. One that was under way when the breaker opened does not prolong the opening."""
        self._failures_in_row += 1
        if self._trials_out:
            self._open_s = min(2 * self._open_s, self._policy.max_open_s or self._policy.open_s)
            self._change(opened_at=self._clock())
        elif self._opened_at is None and self._failures_in_row >= self._policy.failures_to_open:
            self._change(opened_at=self._clock())

    def abandoned(self) -> None:
        """A call was cancelled: it proves nothing, and another may be the trial in its place."""
        self._trials_out = max(0, self._trials_out - 1)

    def _change(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._failures_in_row = 0
        self._trials_out = 0
        self._trials_passed = 0
        self.changes += 1
