"""Which engine gets the next call, and which gets none for a while. Pure: no I/O, and the clock is handed in.

load = EngineLoad(clock)              one for each engine
load.tokens += n; load.tokens -= n    around each call
load.heard_at, load.report(...)       whatever it answered, and what the answer says of its queue and rate
choose(loads, tokens, now, random)    the engine that should have answered such a call first

A call goes where the tokens ahead of it, and its own, take the least time: those sent from here and not answered, and
those of others that the engine reported as waiting, by its measured rate. Time in flight needs no measurement of its
own: what is slow, for whatever reason, keeps its tokens longer.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from common.breaker import BreakerPolicy, CircuitBreaker, CircuitState

SILENT_S: Final = 2.0  # without any answer, though it is asked every second
EJECTION: Final = BreakerPolicy(failures_to_open=3, open_s=1.0, trial_calls=1, max_open_s=30.0)
AVOID_S: Final = 1.0  # after a failed call, and at most after being full
RETRY_SAMPLE: Final = 2
SAMPLE: Final = 8  # engines compared for a call; more are drawn from at random, so that gateways do not act as one


class EngineLoad:
    """What is known of one engine's work, and whether it has failed lately.

    tokens: sent and not answered. rate: tokens a second of all its runs side by side, as it measured them; None before
    it said. run_rate: of one run. heard_at, answered_at: when it last answered anything, and a call.
    """

    __slots__ = (
        "_others",
        "_reported_at",
        "answered_at",
        "avoid_until",
        "breaker",
        "heard_at",
        "rate",
        "run_rate",
        "tokens",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tokens = 0
        self.rate: float | None = None
        self.run_rate: float | None = None
        self.heard_at = self.answered_at = self._reported_at = clock()
        self.avoid_until = 0.0
        self.breaker = CircuitBreaker(EJECTION, clock)
        self._others = 0.0

    @property
    def runs(self) -> int:
        """Runs of the model side by side; 1 where it did not say."""
        return max(1, round(self.rate / self.run_rate)) if self.rate and self.run_rate else 1

    def report(self, queued_tokens: float, rate: float, run_rate: float | None, now: float) -> None:
        """What the engine said of itself: tokens that wait there, whoever sent them, and its rates, tokens a second."""
        self._others = max(0.0, queued_tokens - self.tokens)
        self._reported_at = now
        self.rate, self.run_rate = rate, run_rate or self.run_rate

    def others_tokens(self, now: float) -> float:
        """Tokens of other callers that still wait there, by its last report and its rate since."""
        return max(0.0, self._others - (self.rate or 0.0) * (now - self._reported_at)) if self._others else 0.0

    def answer_s(self, tokens: int, typical_rate: float, now: float) -> float:
        """Seconds until it would have computed `tokens` more; `typical_rate` where it did not report one."""
        return (self.tokens + self.others_tokens(now) + tokens) / (self.rate or typical_rate)

    def is_silent(self, now: float) -> bool:
        """Whether it has answered nothing for so long that it may be frozen, or cut off."""
        return now - self.heard_at >= SILENT_S

    def is_suspect(self, now: float) -> bool:
        """Whether others are asked first: it is silent, or was full or failed a call a moment ago."""
        return now < self.avoid_until or now - self.heard_at >= SILENT_S


def typical_rate(loads: Sequence[EngineLoad]) -> float:
    """The mean rate of those that reported one, for those that did not; 1 where none did."""
    rates = [load.rate for load in loads if load.rate]
    return sum(rates) / len(rates) if rates else 1.0


def choose(
    loads: Sequence[EngineLoad], tokens: int, now: float, random: Random, *, is_retry: bool = False
) -> EngineLoad | None:
    """The engine for a call of `tokens`; None where all are ejected.

    An ejected engine whose time is over gets one call, as its trial. Suspects are asked where no other is left. Ties
    are broken at random. What fails every call at once has nothing in flight, and so seems the least loaded: a retry
    is therefore chosen from two, where an engine that has just begun to fail is no likelier than another.
    """
    drawn = RETRY_SAMPLE if is_retry else SAMPLE
    pools = [loads] if len(loads) <= drawn else [random.sample(loads, drawn), loads]
    closed: list[EngineLoad] = []
    for pool in pools:
        closed = []
        for load in pool:
            state = load.breaker.state
            if state is CircuitState.CLOSED:
                closed.append(load)
            elif state is CircuitState.HALF_OPEN and load.breaker.allow():
                return load
        if healthy := [load for load in closed if not load.is_suspect(now)]:
            return _first_to_answer(healthy, tokens, now, random)
    return _first_to_answer(closed, tokens, now, random) if closed else None


def _first_to_answer(loads: Sequence[EngineLoad], tokens: int, now: float, random: Random) -> EngineLoad:
    if len(loads) == 1:
        return loads[0]
    typical = typical_rate(loads)
    return min(loads, key=lambda load: (load.answer_s(tokens, typical, now), random.random()))
