"""When a failed call is made again, and after what wait: exponential backoff, full jitter, one deadline.

The wait before attempt k+1 is uniform in [0, min(cap, base * 2^(k-1))], which spreads callers that failed
together better than any fixed schedule
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), on top of what a Retry-After
header gives. The loop itself is tenacity's.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from gateway.client.errors import (
    CircuitOpen,
    ClientError,
    FingerprintMismatch,
    RateLimited,
    TransportError,
    Unavailable,
)

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]
OnRetry = Callable[[ClientError, float], None]  # called with each failure that is retried, and the wait before

RETRIED: tuple[type[ClientError], ...] = (TransportError, RateLimited, Unavailable)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is tried for. Seconds throughout.

    `timeout_s` bounds each attempt, `deadline_s` all attempts and waits together. A Retry-After above
    `max_retry_after_s` is not waited for, and not cut short either: the error is raised and carries it.
    `wait_for_circuit` waits out an open circuit like a Retry-After instead of raising CircuitOpen at once.
    """

    attempts: int | None = 6  # None: as many as the deadline allows
    deadline_s: float = 180.0
    timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    backoff_base_s: float = 0.25
    backoff_cap_s: float = 2.0
    max_retry_after_s: float = 30.0
    wait_for_circuit: bool = False

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError("attempts is at least 1, or None")
        limits = (
            self.deadline_s,
            self.timeout_s,
            self.connect_timeout_s,
            self.backoff_base_s,
            self.backoff_cap_s,
        )
        if min(limits) <= 0:
            raise ValueError("time limits and backoffs are above 0")

    def retries(self, error: BaseException | None) -> bool:
        """Whether this failure may pass by itself. A fallback's mismatch is judged by what made it needed."""
        if isinstance(error, FingerprintMismatch):
            return self.retries(error.__cause__)
        return isinstance(error, RETRIED) or (self.wait_for_circuit and isinstance(error, CircuitOpen))


DEFAULT_RETRY = RetryPolicy()


class Deadline:
    """The moment by which a call must be over, by the client's clock."""

    def __init__(self, clock: Clock, deadline_s: float) -> None:
        self._clock = clock
        self._at = clock() + deadline_s

    def left_s(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(self._at - self._clock(), 0.0)


async def with_retries(
    policy: RetryPolicy,
    attempt: Callable[[Deadline], Awaitable[T]],
    *,
    clock: Clock,
    sleep: Sleep,
    on_retry: OnRetry | None = None,
) -> T:
    """Run `attempt` until it succeeds, fails for good, or the policy is used up; raises the last failure.

    A circuit that opens in between is no failure of its own: what opened it is raised.
    """
    deadline = Deadline(clock, policy.deadline_s)
    failures: deque[ClientError] = deque(maxlen=1)  # the last that was retried
    backoff = tenacity.wait_random_exponential(multiplier=policy.backoff_base_s, max=policy.backoff_cap_s)

    def wait_s(state: tenacity.RetryCallState) -> float:
        return (_retry_after_s(_failure(state)) or 0.0) + backoff(state)

    def used_up(state: tenacity.RetryCallState) -> bool:
        required_s = _retry_after_s(_failure(state)) or 0.0
        too_many = policy.attempts is not None and state.attempt_number >= policy.attempts
        return too_many or required_s > policy.max_retry_after_s or state.upcoming_sleep >= deadline.left_s()

    def report(state: tenacity.RetryCallState) -> None:
        failure = _failure(state)
        assert isinstance(failure, ClientError)
        if not isinstance(failure, CircuitOpen):
            failures.append(failure)
        if on_retry is not None:
            on_retry(failure, state.upcoming_sleep)

    retrying = tenacity.AsyncRetrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(policy.retries),
        wait=wait_s,
        stop=used_up,
        before_sleep=report,
        reraise=True,
    )
    try:
        return await retrying(attempt, deadline)
    except CircuitOpen:
        if failures:
            raise failures[-1] from failures[-1].__cause__
        raise


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _retry_after_s(error: BaseException | None) -> float | None:
    """The wait that the other side gave; of a mismatch, that of the failure before it."""
    if isinstance(error, FingerprintMismatch):
        return _retry_after_s(error.__cause__)
    return error.retry_after_s if isinstance(error, ClientError) else None
