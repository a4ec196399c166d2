"""The circuit breaker in front of one URL: `with breaker.call():` surrounds each use of it.

Some exceptions are failures; any other is an answer, so a success (a 429 proves that a gateway answers); a cancelled
call is neither.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.breaker import BreakerPolicy, CircuitBreaker, CircuitState
from gateway.client.errors import CircuitOpen

TRIAL_WAIT_S = 0.5  # what a caller has to wait while all trial calls are out


class UrlBreaker:
    """The breaker of one URL; `failures` are the exceptions that count against it."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        failures: tuple[type[Exception], ...],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._failure_types = failures
        self._breaker = CircuitBreaker(policy, clock)
        self._last_failure = ""

    @property
    def state(self) -> CircuitState:
        """The state now."""
        return self._breaker.state

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround one call; raises CircuitOpen instead when the circuit does not let it through.

        A call that began before the last change of state does not count for the next one.
        """
        breaker = self._breaker
        if not breaker.allow():
            left_s = breaker.open_left_s
            raise CircuitOpen(self._name, self._last_failure, left_s if left_s > 0 else TRIAL_WAIT_S)
        changes = breaker.changes
        report: Callable[[], None] = breaker.abandoned
        try:
            yield
            report = breaker.succeeded
        except Exception as error:
            if isinstance(error, self._failure_types):
                report = breaker.failed
                if changes == breaker.changes:
                    self._last_failure = f"{type(error).__name__}: {error}"
            else:
                report = breaker.succeeded
            raise
        finally:
            if changes == breaker.changes:
                report()
