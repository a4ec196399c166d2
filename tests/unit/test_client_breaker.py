"""The circuit breaker, by a clock that is moved by hand."""

import asyncio

import pytest

from gateway.client import BreakerPolicy, CircuitOpen, CircuitState
from gateway.client.breaker import UrlBreaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Broken(Exception):
    pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


def breaker_of(clock: Clock, **policy: float) -> UrlBreaker:
    return UrlBreaker("http://gateway", BreakerPolicy(**policy), (Broken,), clock)


def fail(breaker: UrlBreaker) -> None:
    with pytest.raises(Broken), breaker.call():
        raise Broken("no answer")


def succeed(breaker: UrlBreaker) -> None:
    with breaker.call():
        pass


def test_opens_after_failures_in_a_row_and_names_the_last(clock):
    """Three failures in a row open it; calls are then refused with the last failure and the time left."""
    breaker = breaker_of(clock, failures_to_open=3, open_s=10)
    for _ in range(3):
        assert breaker.state is CircuitState.CLOSED
        fail(breaker)
    clock.now = 4
    with pytest.raises(CircuitOpen, match="Broken: no answer") as refusal, breaker.call():
        pytest.fail("the call ran")
    assert breaker.state is CircuitState.OPEN
    assert refusal.value.retry_after_s == 6


def test_a_success_in_between_starts_the_count_again(clock):
    """Only failures in a row count."""
    breaker = breaker_of(clock, failures_to_open=2)
    for _ in range(5):
        fail(breaker)
        succeed(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_an_exception_that_is_no_failure_is_an_answer(clock):
    """An error of another kind proves that somebody answers, and resets the count."""
    breaker = breaker_of(clock, failures_to_open=2)
    fail(breaker)
    with pytest.raises(KeyError), breaker.call():
        raise KeyError
    fail(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_half_open_lets_a_bounded_number_of_trials_through(clock):
    """After open_s, two calls at a time pass; a third is refused; two successes close the circuit."""
    breaker = breaker_of(clock, failures_to_open=1, open_s=10, trial_calls=2)
    fail(breaker)
    clock.now = 10
    assert breaker.state is CircuitState.HALF_OPEN
    with breaker.call(), breaker.call(), pytest.raises(CircuitOpen), breaker.call():
        pytest.fail("a third trial ran")
    assert breaker.state is CircuitState.CLOSED


def test_a_failed_trial_opens_it_again_for_the_whole_time(clock):
    """One failure in half-open starts a new wait."""
    breaker = breaker_of(clock, failures_to_open=3, open_s=10)
    for _ in range(3):
        fail(breaker)
    clock.now = 12
    fail(breaker)
    clock.now = 21
    assert breaker.state is CircuitState.OPEN
    clock.now = 22
    assert breaker.state is CircuitState.HALF_OPEN


def test_a_cancelled_trial_gives_its_place_back(clock):
    """A trial that is cancelled proves nothing and must not block the next one for ever."""
    breaker = breaker_of(clock, failures_to_open=1, open_s=10)
    fail(breaker)
    clock.now = 10
    with pytest.raises(asyncio.CancelledError), breaker.call():
        raise asyncio.CancelledError
    assert breaker.state is CircuitState.HALF_OPEN
    succeed(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_a_call_from_before_has_no_say(clock):
    """A call that began while closed and ends while half-open neither closes nor reopens the circuit."""
    breaker = breaker_of(clock, failures_to_open=1, open_s=10)
    old = breaker.call()
    old.__enter__()
    fail(breaker)
    clock.now = 10
    old.__exit__(None, None, None)
    assert breaker.state is CircuitState.HALF_OPEN


@pytest.mark.parametrize("policy", [{"failures_to_open": 0}, {"open_s": 0}, {"trial_calls": 0}])
def test_impossible_policies_are_refused(policy):
    """A breaker that could never open, close or try is refused at once."""
    with pytest.raises(ValueError, match="at least 1"):
        BreakerPolicy(**policy)
