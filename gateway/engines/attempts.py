"""One call, sent to engines until one of them answers, within its deadline.

The next engine gets it when one failed in a way that another may not, when one has stopped answering or is late
(`retries`), and, where hedging is set, when an answer takes longer than that. The first answer counts; calls that still
run are cancelled, which withdraws their texts from an engine's queue.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from common.breaker import CircuitState
from common.tasks import cancel_and_wait
from engine.protocol import Float32Array
from gateway.engines.balance import AVOID_S, choose, typical_rate
from gateway.engines.connection import Call, CallFailed, EngineConnection
from gateway.engines.retries import MAX_ATTEMPTS, MAX_RUNS, ExtraCalls, has_stopped, is_late
from gateway.errors import DeadlineExceeded, EngineAway, ModelChanged
from gateway.metrics import ENGINE_EJECTIONS, ENGINE_RETRIES

CHECK_EVERY_S: Final = 0.25

Candidates = Callable[[Call], list[EngineConnection]]


@dataclass(slots=True)
class _Attempt:
    """One engine that has the call."""

    engine: EngineConnection
    is_trial: bool
    sent_at: float
    expected_s: float
    is_over: bool = False


@dataclass(slots=True)
class _Race:
    """All attempts at one call."""

    call: Call
    attempts: list[_Attempt] = field(default_factory=list)
    running: "dict[asyncio.Task[Float32Array], _Attempt]" = field(default_factory=dict)
    blamed: list[_Attempt] = field(default_factory=list)
    failures: list[CallFailed] = field(default_factory=list)
    runs: int = 0  # that ended without an answer, and may have computed


class Attempts:
    """Sends calls. `candidates` gives the engines that may compute a call now, and raises where there are none."""

    def __init__(self, candidates: Candidates, clock: Callable[[], float], hedge_after_s: float | None = None) -> None:
        self._candidates = candidates
        self._clock = clock
        self._hedge_after_s = hedge_after_s
        self._extra = ExtraCalls()
        self._random = Random()  # noqa: S311  spreads load

    async def only(self, engine: EngineConnection, call: Call) -> Float32Array:
        """The vectors of a call, by an engine that has no other beside it. Raises GatewayError, ModelChanged."""
        try:
            return await engine.vectors(call, _remaining_s(call))
        except CallFailed as failure:
            raise failure.error from failure.__cause__

    async def send(self, call: Call) -> Float32Array:
        """float32[n, dimensions], by whichever engine answers first. Raises GatewayError, ModelChanged."""
        self._extra.call()
        race = _Race(call)
        try:
            if not self._start(race):
                raise EngineAway("all engines have failed lately; they are tried again soon", retry_after_s=1)
            while race.running:
                done, _ = await asyncio.wait(
                    race.running, timeout=self._check_after_s(race), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    vectors = self._settle(race, task)
                    if vectors is not None:
                        return vectors
                if not done:
                    self._help(race)
                elif not race.running and race.runs < MAX_RUNS and self._start(race):
                    ENGINE_RETRIES.labels("failed").inc()
            raise _error_of(race.failures)
        finally:
            self._close(race)
            if race.running:
                await cancel_and_wait(race.running)

    def _start(self, race: _Race) -> bool:
        """Send the call to one engine more; whether there was one."""
        remaining_s = _remaining_s(race.call) if not race.attempts else race.call.deadline - _loop_time()
        if remaining_s <= 0 or len(race.attempts) >= MAX_ATTEMPTS:
            return False
        try:
            candidates = self._candidates(race.call)
        except (EngineAway, ModelChanged) as error:
            if not race.attempts:
                raise
            if isinstance(error, ModelChanged):  # the last engine that had the model goes: the request is done again
                race.failures.append(CallFailed(error))
            return False
        by_load = {engine.load: engine for engine in candidates if engine not in [a.engine for a in race.attempts]}
        now, loads = self._clock(), list(by_load)
        load = choose(loads, race.call.tokens, now, self._random, is_retry=bool(race.attempts))
        if load is None:
            return False
        expected_s = load.answer_s(race.call.tokens, typical_rate(loads), now)
        attempt = _Attempt(by_load[load], load.breaker.state is not CircuitState.CLOSED, now, expected_s)
        race.attempts.append(attempt)
        race.running[asyncio.create_task(attempt.engine.vectors(race.call, remaining_s))] = attempt
        return True

    def _settle(self, race: _Race, task: "asyncio.Task[Float32Array]") -> Float32Array | None:
        """What an attempt that ended gave; None for a failure after which another engine may be asked."""
        attempt = race.running.pop(task)
        try:
            vectors = task.result()
        except CallFailed as failure:
            if not failure.elsewhere:
                raise failure.error from failure.__cause__
            race.failures.append(failure)
            race.runs += failure.ran
            if failure.blame:
                race.blamed.append(attempt)
                attempt.engine.load.avoid_until = self._clock() + AVOID_S
            return None
        attempt.is_over = True
        attempt.engine.load.breaker.succeeded()
        for other in race.running.values():
            if self._stopped(other):
                race.blamed.append(other)
        for failed in race.blamed:
            self._blame(failed)
        return vectors

    def _help(self, race: _Race) -> None:
        """Send the call to a second engine where those that have it are stuck, or hedging is due."""
        if race.runs + len(race.running) >= MAX_RUNS:
            return
        attempts = list(race.running.values())
        if all(map(self._stopped, attempts)):
            reason = "stopped"
        elif self._hedge_is_due(race):
            reason = "hedge"
        elif all(self._late(race.call, attempt) for attempt in attempts):
            reason = "late"
        else:
            return
        if (reason == "stopped" or self._extra.take()) and self._start(race):
            ENGINE_RETRIES.labels(reason).inc()

    def _stopped(self, attempt: _Attempt) -> bool:
        return not attempt.engine.is_ready or has_stopped(attempt.engine.load, attempt.sent_at, self._clock())

    def _late(self, call: Call, attempt: _Attempt) -> bool:
        now = self._clock()
        deadline_s = call.deadline - _loop_time() + now - attempt.sent_at
        return is_late(attempt.engine.load, attempt.sent_at, attempt.expected_s, deadline_s, now)

    def _hedge_is_due(self, race: _Race) -> bool:
        return (
            self._hedge_after_s is not None
            and len(race.attempts) == 1
            and self._clock() - race.attempts[0].sent_at >= self._hedge_after_s
        )

    def _check_after_s(self, race: _Race) -> float:
        after_s = min(CHECK_EVERY_S, max(0.01, (race.call.deadline - _loop_time()) / 8))
        if self._hedge_after_s is not None and len(race.attempts) == 1:
            hedge_s = self._hedge_after_s - (self._clock() - race.attempts[0].sent_at)
            after_s = min(after_s, hedge_s) if hedge_s > 0 else after_s
        return after_s

    def _blame(self, attempt: _Attempt) -> None:
        breaker, attempt.is_over = attempt.engine.load.breaker, True
        changes = breaker.changes
        breaker.failed()
        if breaker.changes > changes:
            ENGINE_EJECTIONS.labels(attempt.engine.label).inc()

    def _close(self, race: _Race) -> None:
        """Give trials back that proved nothing."""
        for attempt in race.attempts:
            if attempt.is_trial and not attempt.is_over:
                attempt.engine.load.breaker.abandoned()


def _error_of(failures: list[CallFailed]) -> Exception:
    """Of several failures the one to report: a changed model, whose request is done again, else the last."""
    changed = [failure.error for failure in failures if isinstance(failure.error, ModelChanged)]
    return changed[0] if changed else failures[-1].error


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _remaining_s(call: Call) -> float:
    remaining_s = call.deadline - _loop_time()
    if remaining_s <= 0:
        raise DeadlineExceeded("the request's deadline passed before the engine was called")
    return remaining_s
