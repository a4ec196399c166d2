"""The circuit breaker's three states."""

from cache.breaker import Breaker


def breaker(now: list[float]) -> Breaker:
    return Breaker(failures_to_open=3, open_s=1.0, max_open_s=4.0, clock=lambda: now[0])


def fail(target: Breaker, times: int = 3) -> None:
    for _ in range(times):
        assert target.allow()
        target.failed()


def test_opens_after_failures_in_a_row_only() -> None:
    """A success in between starts the count anew."""
    target = breaker([0.0])
    fail(target, 2)
    target.succeeded()
    fail(target, 2)
    assert target.state == "closed"
    fail(target, 1)
    assert target.state == "open"
    assert not target.allow()


def test_one_trial_decides() -> None:
    """After the pause one call passes, the others do not; its success closes the breaker."""
    now = [0.0]
    target = breaker(now)
    fail(target)
    now[0] = 1.0
    assert target.state == "half-open"
    assert target.allow()
    assert not target.allow()
    target.succeeded()
    assert target.state == "closed"
    assert target.allow()


def test_pause_doubles_up_to_its_bound() -> None:
    """Each failed trial doubles the pause until the longest one."""
    now = [0.0]
    target = breaker(now)
    fail(target)
    pauses = []
    for _ in range(4):
        start = now[0]
        while not target.allow():
            now[0] += 0.25
        pauses.append(now[0] - start)
        target.failed()
    assert pauses == [1.0, 2.0, 4.0, 4.0]


def test_late_failures_do_not_prolong_the_pause() -> None:
    """Calls that were under way when it opened fail without moving the trial away."""
    now = [0.0]
    target = breaker(now)
    fail(target)
    now[0] = 0.9
    target.failed()
    now[0] = 1.0
    assert target.allow()


def test_a_late_success_closes_it() -> None:
    """A call that was under way when it opened and then succeeds proves that Redis answers."""
    target = breaker([0.0])
    fail(target)
    target.succeeded()
    assert target.state == "closed"
