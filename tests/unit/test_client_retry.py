"""Retries: what is retried, how long is waited, when it ends. The clock moves only when the code under test sleeps."""

import pytest

from gateway.client.errors import (
    CircuitOpen,
    ConnectFailed,
    ConnectionLost,
    FingerprintMismatch,
    GatewayFault,
    InvalidReply,
    RateLimited,
    RequestRefused,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from gateway.client.retry import Deadline, RetryPolicy, with_retries
from tests.fake_time import Time


class Attempts:
    """Fails with the given errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made = 0

    async def __call__(self, deadline: Deadline) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


async def run(calls: Attempts, time: Time, on_retry=None, **policy) -> str:
    return await with_retries(RetryPolicy(**policy), calls, clock=time.clock, sleep=time.sleep, on_retry=on_retry)


def mismatch_after(cause: Exception) -> FingerprintMismatch:
    error = FingerprintMismatch("http://b", "f1", "f2")
    error.__cause__ = cause
    return error


TRANSIENT = [
    ConnectFailed("x"),
    ConnectionLost("x"),
    TimedOut("x"),
    RateLimited(429, "x"),
    Unavailable(503, "x"),
    mismatch_after(ConnectFailed("x")),
]
FINAL = [
    RequestRefused(400, "x"),
    RequestRefused(404, "x"),
    RequestRefused(413, "x"),
    Unauthorized(401, "x"),
    GatewayFault(500, "x"),
    InvalidReply("x"),
    FingerprintMismatch("http://a", "f1", "f2"),
    CircuitOpen("http://a", "x", 1.0),
    mismatch_after(GatewayFault(500, "x")),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
async def test_what_may_pass_is_tried_again(error):
    """Connect errors, broken connections, time-outs, 429 and 503 are retried."""
    attempts = Attempts(error, error)
    assert await run(attempts, Time()) == "answer"
    assert attempts.made == 3


@pytest.mark.parametrize("error", FINAL, ids=repr)
async def test_what_will_not_pass_is_raised_at_once(error):
    """Everything else is raised after the first attempt, unchanged."""
    attempts = Attempts(error)
    with pytest.raises(type(error)) as caught:
        await run(attempts, Time())
    assert caught.value is error
    assert attempts.made == 1


async def test_waits_grow_with_full_jitter_up_to_the_cap():
    """The k-th wait lies within [0, min(cap, base * 2^(k-1))], and waits are not all alike."""
    seen: list[list[float]] = []
    for _ in range(50):
        time = Time()
        await run(Attempts(*[ConnectFailed("x")] * 5), time, backoff_base_s=1, backoff_cap_s=4)
        seen.append(time.waits)
    for position, bound in enumerate([1, 2, 4, 4, 4]):
        waits = [row[position] for row in seen]
        assert all(0 <= wait <= bound for wait in waits)
        assert max(waits) - min(waits) > bound / 2


async def test_retry_after_is_waited_for_and_jittered():
    """The wait is what was asked plus the jitter, never less than what was asked."""
    time = Time()
    await run(Attempts(RateLimited(429, "x", retry_after_s=5.0)), time, backoff_base_s=0.5)
    assert 5.0 <= time.waits[0] <= 5.5


async def test_a_retry_after_beyond_the_bound_is_not_cut_short():
    """Asked to wait longer than the bound, the client gives up and says how long was asked, instead of pressing."""
    time = Time()
    with pytest.raises(RateLimited) as caught:
        await run(Attempts(RateLimited(429, "x", retry_after_s=31.0)), time, max_retry_after_s=30)
    assert caught.value.retry_after_s == 31.0
    assert time.waits == []


async def test_attempts_are_bounded():
    """After `attempts` attempts the last failure is raised."""
    attempts = Attempts(*[Unavailable(503, "x")] * 9, ConnectFailed("last"))
    with pytest.raises(Unavailable):
        await run(attempts, Time(), attempts=3)
    assert attempts.made == 3


async def test_no_wait_reaches_past_the_deadline():
    """With attempts unbounded, the deadline ends it, and nothing sleeps past it first."""
    time = Time()
    with pytest.raises(ConnectFailed):
        await run(Attempts(*[ConnectFailed("x")] * 10_000), time, attempts=None, deadline_s=20)
    assert time.now < 120
    assert len(time.waits) > 2


async def test_each_retry_is_told():
    """The hook hears the failure and the wait that follows, and nothing of the last failure."""
    told = []
    time = Time()
    with pytest.raises(TimedOut):
        await run(Attempts(ConnectFailed("x"), TimedOut("y")), time, lambda e, s: told.append((e, s)), attempts=2)
    assert [(type(error), wait) for error, wait in told] == [(ConnectFailed, time.waits[0])]


@pytest.mark.parametrize("wait_for_circuit", [True, False])
async def test_a_circuit_that_opens_in_between_does_not_hide_the_failure(wait_for_circuit):
    """The error raised is what opened the circuit, not that it is open."""
    errors = [ConnectFailed("nobody"), *[CircuitOpen("a", "x", 9.0)] * 9]
    with pytest.raises(ConnectFailed, match="nobody"):
        await run(Attempts(*errors), Time(), wait_for_circuit=wait_for_circuit, attempts=4)


async def test_an_open_circuit_is_waited_out_when_asked():
    """With wait_for_circuit, CircuitOpen's own wait is honoured like a Retry-After."""
    time = Time()
    answer = await run(Attempts(CircuitOpen("a", "x", 9.0)), time, wait_for_circuit=True)
    assert answer == "answer"
    assert time.waits[0] >= 9.0


@pytest.mark.parametrize("policy", [{"attempts": 0}, {"deadline_s": 0}, {"timeout_s": -1}, {"backoff_base_s": 0}])
def test_impossible_policies_are_refused(policy):
    """A policy that could never send anything is refused when it is made."""
    with pytest.raises(ValueError, match=r"at least|above 0"):
        RetryPolicy(**policy)


def test_a_deadline_never_goes_below_zero():
    """Time left ends at zero."""
    time = Time()
    deadline = Deadline(time.clock, 5)
    time.now += 4
    assert deadline.left_s() == 1
    time.now += 4
    assert deadline.left_s() == 0
