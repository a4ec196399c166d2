"""Which engine gets a call, when one is ejected, and when a call is sent to one more."""

from random import Random

import pytest

from common.breaker import CircuitState
from gateway.engines.balance import EJECTION, SAMPLE, SILENT_S, EngineLoad, choose
from gateway.engines.retries import EXTRA_AT_ONCE, EXTRA_SHARE, ExtraCalls, has_stopped, is_late
from tests.fake_time import Time


def loads(time: Time, *rates: float | None) -> list[EngineLoad]:
    """Engines that reported these rates just now."""
    made = [EngineLoad(time.clock) for _ in rates]
    for load, rate in zip(made, rates, strict=True):
        if rate is not None:
            load.report(0, rate, rate, time.now)
    return made


def chosen(of: list[EngineLoad], time: Time, tokens: int = 10, seed: int = 0) -> int:
    """The place of the engine that gets a call."""
    load = choose(of, tokens, time.now, Random(seed))
    assert load is not None
    return of.index(load)


def test_least_time_counts_not_least_tokens() -> None:
    """A fast engine with more tokens ahead is done sooner than a slow one with fewer."""
    time = Time()
    engines = loads(time, 10_000, 1_000)
    engines[0].tokens, engines[1].tokens = 900, 100
    assert chosen(engines, time) == 0
    engines[0].tokens = 1200
    assert chosen(engines, time) == 1


def test_equal_engines_get_equal_shares() -> None:
    """Ties are broken at random, so that no engine is always first."""
    time = Time()
    engines = loads(time, 1_000, 1_000, 1_000)
    random, shares = Random(1), [0, 0, 0]
    for _ in range(900):
        load = choose(engines, 10, time.now, random)
        assert load is not None
        shares[engines.index(load)] += 1
    assert min(shares) > 230


def test_tokens_of_others_count_until_they_are_computed() -> None:
    """What an engine reported as waiting, beyond our own, is ahead of a call; it shrinks at the engine's rate."""
    time = Time()
    one, two = engines = loads(time, 1_000, 1_000)
    one.tokens = 300
    one.report(1_300, 1_000, 1_000, time.now)
    two.tokens = 600
    assert one.others_tokens(time.now) == 1_000
    assert chosen(engines, time) == 1
    time.now += 0.9
    assert chosen(engines, time) == 0


def test_engine_without_a_rate_is_taken_for_an_average_one() -> None:
    """One that has not said how fast it is gets calls, but not all of them."""
    time = Time()
    engines = loads(time, 1_000, None)
    engines[1].tokens = 10
    assert chosen(engines, time) == 0
    engines[0].tokens = 20
    assert chosen(engines, time) == 1


def test_many_engines_are_drawn_from() -> None:
    """Of more than SAMPLE engines some are drawn, so that gateways that see the same do not all choose the same."""
    time = Time()
    engines = loads(time, *[1_000.0] * (4 * SAMPLE))
    for number, load in enumerate(engines):
        load.tokens = number
    picked = {chosen(engines, time, seed=seed) for seed in range(200)}
    assert 4 < len(picked) <= len(engines) - SAMPLE + 1


def test_retry_is_not_drawn_to_what_fails_at_once() -> None:
    """Engines that fail every call at once have nothing in flight: a retry finds them hardly likelier than others."""
    time = Time()
    engines = loads(time, *[1_000.0] * 40)
    for load in engines[4:]:
        load.tokens = 100
    random, to_idle = Random(0), 0
    for _ in range(500):
        load = choose(engines, 10, time.now, random, is_retry=True)
        assert load is not None
        to_idle += load.tokens == 0
    assert to_idle < 2.5 * 500 * 4 / 40


@pytest.mark.parametrize("suspect", ["silent", "avoided"])
def test_suspects_are_asked_last(suspect: str) -> None:
    """A silent engine, or one that was full or failed just now, gets a call only where there is no other."""
    time = Time()
    engines = loads(time, 1_000, 1_000)
    if suspect == "silent":
        time.now += SILENT_S
        engines[1].heard_at = time.now
    else:
        engines[0].avoid_until = time.now + 1
    engines[1].tokens = 100_000
    assert chosen(engines, time) == 1
    assert chosen(engines[:1], time) == 0


def fail(load: EngineLoad, times: int = EJECTION.failures_to_open) -> None:
    """So many failures in a row."""
    for _ in range(times):
        load.breaker.failed()


def test_ejected_engine_is_tried_by_one_call_after_growing_pauses() -> None:
    """After failures in a row it gets no call; then one, as a trial; a failed trial doubles the pause, to a bound."""
    time = Time()
    engines = loads(time, 1_000_000, 1_000)
    fail(engines[0])
    pauses = []
    for _ in range(8):
        began = time.now
        while chosen(engines, time) != 0:
            time.now += 0.25
        pauses.append(time.now - began)
        assert chosen(engines, time) == 1, "a second call came before the trial's answer"
        engines[0].breaker.failed()
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    while chosen(engines, time) != 0:
        time.now += 0.25
    engines[0].breaker.succeeded()
    assert engines[0].breaker.state is CircuitState.CLOSED
    assert chosen(engines, time) == 0


def test_the_only_healthy_one_of_many_is_found() -> None:
    """Where those drawn are all ejected or suspects, the others are looked at."""
    time = Time()
    engines = loads(time, *[1_000.0] * 60)
    for load in engines[:30]:
        fail(load)
    for load in engines[30:59]:
        load.avoid_until = time.now + 1
    engines[59].tokens = 100_000
    assert {chosen(engines, time, seed=seed) for seed in range(50)} == {59}


def test_where_all_are_ejected_none_is_chosen() -> None:
    """No call is sent to engines that are known to fail because all of them do."""
    time = Time()
    engines = loads(time, 1_000, 1_000)
    for load in engines:
        fail(load)
    assert choose(engines, 10, time.now, Random(0)) is None
    assert choose([], 10, time.now, Random(0)) is None


def test_engine_that_answers_anything_has_not_stopped() -> None:
    """Only an engine that has answered nothing since it got the call, for SILENT_S, has stopped."""
    time = Time()
    (load,) = loads(time, 1_000)
    sent_at = time.now
    time.now += SILENT_S
    assert has_stopped(load, sent_at, time.now)
    load.heard_at = sent_at + 0.1
    assert not has_stopped(load, sent_at, time.now)


def test_busy_engine_is_not_late() -> None:
    """A call is late after five times its expected time, two seconds at least, or half its deadline; never while the
    engine answers other calls."""
    time = Time()
    (load,) = loads(time, 1_000)
    sent_at = time.now
    assert not is_late(load, sent_at, 0.01, 30, sent_at + 1.9)
    assert is_late(load, sent_at, 0.01, 30, sent_at + 2)
    assert not is_late(load, sent_at, 2, 30, sent_at + 9.9)
    assert is_late(load, sent_at, 2, 30, sent_at + 10)
    assert is_late(load, sent_at, 2, 1, sent_at + 0.5)
    load.answered_at = sent_at + 9
    assert not is_late(load, sent_at, 2, 30, sent_at + 10)


def test_extra_calls_are_a_bounded_share() -> None:
    """Whatever happens, a tenth of the calls is sent twice, and a few at once."""
    extra = ExtraCalls()
    assert sum(extra.take() for _ in range(1_000)) == EXTRA_AT_ONCE
    taken = 0
    for _ in range(1_000):
        extra.call()
        taken += extra.take()
    assert taken == pytest.approx(1_000 * EXTRA_SHARE, abs=1)
