"""A circuit breaker: stops calls to what keeps failing, then lets a few trials through before closing again.

    closed     every call passes; `failures_to_open` failures in a row open it
    open       every call is refused with CircuitOpen for `open_s`
    half-open  at most `trial_calls` calls pass at a time; as many successes close it, one failure reopens it

Knows nothing of HTTP: it is told which exceptions are failures. Any other exception is an answer, so a
success (a 429 proves that somebody is there); a cancelled call is neither and gives its place back. One event
loop, no locks.
"""

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.client.errors import CircuitOpen

TRIAL_WAIT_S = 0.5  # what a caller is told to wait while all trial calls are out


class CircuitState(enum.StrEnum):
    """Where the breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, for how long, and how carefully it closes again."""

    failures_to_open: int = 5
    open_s: float = 10.0
    trial_calls: int = 1

    def __post_init__(self) -> None:
        if self.failures_to_open < 1 or self.trial_calls < 1 or self.open_s <= 0:
            raise ValueError("failures_to_open and trial_calls are at least 1, open_s is above 0")


class CircuitBreaker:
    """The state of one URL; `call()` surrounds each use of it."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        failures: tuple[type[Exception], ...],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._policy = policy
        self._failure_types = failures
        self._clock = clock
        self._failures_in_row = 0
        self._opened_at: float | None = None  # None while closed
        self._trials_out = 0
        self._trials_passed = 0
        self._epoch = 0  # calls that began before the last change of state have no say in the next
        self._last_failure = ""

    @property
    def state(self) -> CircuitState:
        """The state now; open becomes half-open by the passing of time alone."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        if self._opened_at + self._policy.open_s > self._clock():
            return CircuitState.OPEN
        return CircuitState.HALF_OPEN

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround one call; raises CircuitOpen instead when the circuit does not let it through."""
        trial = self._admit()
        epoch = self._epoch
        failure: Exception | None = None
        answered = False
        try:
            yield
            answered = True
        except Exception as error:
            failure = error if isinstance(error, self._failure_types) else None
            answered = failure is None
            raise
        finally:
            if epoch == self._epoch:
                self._trials_out -= trial
                self._settle(failure, answered)

    def _admit(self) -> bool:
        """Let a call through, or raise CircuitOpen; True when it is a trial."""
        if self._opened_at is None:
            return False
        left_s = self._opened_at + self._policy.open_s - self._clock()
        if left_s > 0:
            raise CircuitOpen(self._name, self._last_failure, left_s)
        if self._trials_out >= self._policy.trial_calls:
            raise CircuitOpen(self._name, self._last_failure, TRIAL_WAIT_S)
        self._trials_out += 1
        return True

    def _settle(self, failure: Exception | None, answered: bool) -> None:
        if failure is not None:
            self._last_failure = f"{type(failure).__name__}: {failure}"
            self._failures_in_row += 1
            if self._opened_at is not None or self._failures_in_row >= self._policy.failures_to_open:
                self._change(opened_at=self._clock())
        elif answered:
            self._failures_in_row = 0
            if self._opened_at is not None:
                self._trials_passed += 1
                if self._trials_passed >= self._policy.trial_calls:
                    self._change(opened_at=None)

    def _change(self, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._failures_in_row = 0
        self._trials_out = 0
        self._trials_passed = 0
        self._epoch += 1
