"""Discrete simulation of calls to engines, some of which become faulty, by the gateway's own choosing code.

    python -m tests.simulation.routing                the table of docs/scale.md, in about five minutes
    python -m tests.simulation.routing --engines 3    one size

`gateway.engines.balance` chooses, ejects and estimates, `gateway.engines.retries` says when a call is sent to one
engine more; here are only arrivals, engines with a queue each, and a clock that costs nothing. For comparison the same
calls go round robin over the engines that are ready, with the same retries, and without ejection.

Each engine computes 10,000 tokens a second, call after call; calls have 500 tokens on average, exponentially
distributed, and 5 s. They come at random, at 70 % of what the engines can do before the fault, and at most at 85 % of
what is left then. The fault begins after a quarter of the time, in one engine of ten, at least one:

    slow      a tenth of its rate, which it reports with its answers
    failing   answers each call with an error at once, and is ready
    frozen    takes calls, answers nothing, on no route
    killed    refuses connections
"""

import argparse
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle
from random import Random
from typing import Final, Literal

import numpy as np

from common.breaker import CircuitState
from gateway.engines.attempts import CHECK_EVERY_S
from gateway.engines.balance import AVOID_S, EngineLoad, choose, typical_rate
from gateway.engines.retries import MAX_ATTEMPTS, MAX_RUNS, ExtraCalls, has_stopped, is_late

Fault = Literal["none", "slow", "failing", "frozen", "killed"]
Policy = Literal["ours", "round robin"]
FAULTS: Final[tuple[Fault, ...]] = ("none", "slow", "failing", "frozen", "killed")
POLICIES: Final[tuple[Policy, ...]] = ("ours", "round robin")

RATE: Final = 10_000.0  # tokens a second
MEAN_TOKENS: Final = 500
LEAST_TOKENS: Final = 8
BUSY: Final = 0.7
BUSY_AFTER_FAULT: Final = 0.85
DEADLINE_S: Final = 5.0
NETWORK_S: Final = 0.0005
PROBE_EVERY_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 3.0
SIZES: Final = {1: 1, 3: 2, 10: 3, 100: 10, 1000: 30}  # engines: gateways


@dataclass(slots=True)
class Engine:
    """One engine: what it can do, and until when it is busy."""

    rate: float = RATE
    fault: Fault = "none"
    free_at: float = 0.0
    calls: int = 0

    def queued_tokens(self, now: float) -> float:
        return max(0.0, self.free_at - now) * self.rate

    def run(self, tokens: int, now: float) -> float:
        """When a call that arrives now is computed."""
        self.free_at = max(self.free_at, now) + tokens / self.rate
        return self.free_at


@dataclass(eq=False, slots=True)
class Attempt:
    """One engine that has a call."""

    place: int
    sent_at: float
    expected_s: float
    is_trial: bool
    is_over: bool = False


@dataclass(eq=False, slots=True)
class Call:
    """One call of a gateway."""

    gateway: "Gateway"
    tokens: int
    came_at: float
    attempts: list[Attempt] = field(default_factory=list)
    failed: list[Attempt] = field(default_factory=list)
    runs: int = 0
    is_done: bool = False

    @property
    def running(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.is_over]


@dataclass(eq=False, slots=True)
class Gateway:
    """What one gateway knows of the engines."""

    loads: list[EngineLoad]
    places: Iterator[int]
    extra: ExtraCalls = field(default_factory=ExtraCalls)
    away: set[int] = field(default_factory=set)
    ready: list[int] = field(default_factory=list)
    ready_loads: list[EngineLoad] = field(default_factory=list)
    place_of: dict[EngineLoad, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place_of = {load: place for place, load in enumerate(self.loads)}
        self.leave_out(set())

    def leave_out(self, places: set[int]) -> None:
        """These engines are away."""
        self.away |= places
        self.ready = [place for place in range(len(self.loads)) if place not in self.away]
        self.ready_loads = [self.loads[place] for place in self.ready]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the calls that came from the fault on. Times in milliseconds, faulty_share of all attempts."""

    calls: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    faulty_share: float
    extra_share: float


class Simulation:
    """`run` plays the calls of so many seconds."""

    def __init__(
        self, engines: int, gateways: int, fault: Fault, policy: Policy, seconds: float, seed: int = 0
    ) -> None:
        self._random = Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._engines = [Engine() for _ in range(engines)]
        self._faulty = range(max(1, engines // 10))
        self._fault = fault
        self._policy = policy
        self._seconds = seconds
        self._gateways = [self._gateway(engines) for _ in range(gateways)]
        self._taken_s: list[float] = []
        self._lost = self._after_fault = self._attempts = self._to_faulty = self._extra = 0

    def run(self) -> Outcome:
        """What clients saw from the fault on."""
        left = len(self._engines) - (len(self._faulty) if self._fault != "none" else 0)
        busy = min(BUSY, BUSY_AFTER_FAULT * max(left, 1) / len(self._engines))
        self._every_s = MEAN_TOKENS / (busy * RATE * len(self._engines))
        self._at(0.0, self._arrive)
        self._at(self._seconds / 4, self._fall_ill)
        for gateway in self._gateways:
            self._at(self._random.random(), lambda gateway=gateway: self._probe(gateway))  # type: ignore[misc]
        while self._events:
            self._now, _, event = heapq.heappop(self._events)
            event()
        times = np.array(self._taken_s or [0.0]) * 1000
        p50, p99 = np.percentile(times, [50, 99])
        attempts = max(1, self._attempts)
        return Outcome(
            self._after_fault, self._lost, p50, p99, times.max(), self._to_faulty / attempts, self._extra / attempts
        )

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _clock(self) -> float:
        return self._now

    def _gateway(self, engines: int) -> Gateway:
        loads = [EngineLoad(self._clock) for _ in range(engines)]
        for load in loads:
            load.report(0, RATE, RATE, 0.0)
        first = self._random.randrange(engines)
        return Gateway(loads, cycle([*range(first, engines), *range(first)]))

    def _fall_ill(self) -> None:
        if self._fault == "none":
            return
        for place in self._faulty:
            engine = self._engines[place]
            engine.fault = self._fault
            if self._fault == "slow":
                engine.free_at = self._now + 10 * max(0.0, engine.free_at - self._now)
                engine.rate = RATE / 10

    def _arrive(self) -> None:
        if self._now >= self._seconds:
            return
        self._at(self._now + self._random.expovariate(1 / self._every_s), self._arrive)
        tokens = LEAST_TOKENS + int(self._random.expovariate(1 / (MEAN_TOKENS - LEAST_TOKENS)))
        call = Call(self._random.choice(self._gateways), tokens, self._now)
        call.gateway.extra.call()
        if self._start(call):
            self._at(self._now + CHECK_EVERY_S, lambda: self._check(call))
        else:
            self._lose(call)

    def _start(self, call: Call) -> bool:
        """Send a call to one engine more; whether there was one."""
        gateway = call.gateway
        tried = {attempt.place for attempt in call.attempts}
        if len(call.attempts) >= MAX_ATTEMPTS:
            return False
        places = gateway.ready if not tried else [place for place in gateway.ready if place not in tried]
        place = self._choose(gateway, places, call.tokens, tried)
        if place is None:
            return False
        load = gateway.loads[place]
        expected_s = load.answer_s(call.tokens, typical_rate([load]), self._now)
        attempt = Attempt(place, self._now, expected_s, load.breaker.state is not CircuitState.CLOSED)
        call.attempts.append(attempt)
        load.tokens += call.tokens
        if self._is_after_fault(call):
            self._attempts += 1
            self._to_faulty += place in self._faulty and self._fault != "none"
        self._reach(call, attempt)
        return True

    def _choose(self, gateway: Gateway, places: list[int], tokens: int, tried: set[int]) -> int | None:
        if not places:
            return None
        if self._policy == "round robin":
            return next(place for place in gateway.places if place not in gateway.away and place not in tried)
        loads = gateway.ready_loads if places is gateway.ready else [gateway.loads[place] for place in places]
        load = choose(loads, tokens, self._now, self._random, is_retry=bool(tried))
        return None if load is None else gateway.place_of[load]

    def _reach(self, call: Call, attempt: Attempt) -> None:
        engine = self._engines[attempt.place]
        if engine.fault == "frozen":
            return
        if engine.fault == "killed":
            self._at(self._now + NETWORK_S, lambda: self._failed(call, attempt, ran=False))
        elif engine.fault == "failing":
            self._at(self._now + 2 * NETWORK_S, lambda: self._failed(call, attempt, ran=True))
        else:
            done_at = engine.run(call.tokens, self._now + NETWORK_S)
            self._at(done_at + NETWORK_S, lambda: self._answered(call, attempt))

    def _failed(self, call: Call, attempt: Attempt, *, ran: bool) -> None:
        self._release(call, attempt)
        if call.is_done:
            return
        if not ran:
            call.gateway.leave_out({attempt.place})
        else:
            call.gateway.loads[attempt.place].heard_at = self._now
        call.gateway.loads[attempt.place].avoid_until = self._now + AVOID_S
        call.runs += ran
        call.failed.append(attempt)
        if not call.running and not (call.runs < MAX_RUNS and self._start(call)):
            self._lose(call)

    def _answered(self, call: Call, attempt: Attempt) -> None:
        if self._engines[attempt.place].fault in {"frozen", "killed"}:  # it was computing when it fell ill
            if self._engines[attempt.place].fault == "killed":
                self._failed(call, attempt, ran=True)
            return
        self._release(call, attempt)
        load, engine = call.gateway.loads[attempt.place], self._engines[attempt.place]
        load.heard_at = load.answered_at = self._now
        load.report(engine.queued_tokens(self._now), engine.rate, engine.rate, self._now)
        if call.is_done:
            return
        call.is_done = True
        if self._is_after_fault(call):
            self._after_fault += 1
            self._taken_s.append(self._now - call.came_at)
        if self._policy == "ours":
            load.breaker.succeeded()
            for failed in [*call.failed, *(one for one in call.running if self._stopped(call, one))]:
                call.gateway.loads[failed.place].breaker.failed()
        self._withdraw(call)

    def _withdraw(self, call: Call) -> None:
        """Cancel the attempts that still run; what an engine has in its queue it computes all the same."""
        for attempt in call.running:
            self._release(call, attempt)

    def _release(self, call: Call, attempt: Attempt) -> None:
        if attempt.is_over:
            return
        attempt.is_over = True
        load = call.gateway.loads[attempt.place]
        load.tokens -= call.tokens
        if attempt.is_trial and self._policy == "ours" and call.is_done:
            load.breaker.abandoned()

    def _stopped(self, call: Call, attempt: Attempt) -> bool:
        gateway = call.gateway
        return attempt.place in gateway.away or has_stopped(gateway.loads[attempt.place], attempt.sent_at, self._now)

    def _check(self, call: Call) -> None:
        """What Attempts does every now and then for a call that waits."""
        left_s = call.came_at + DEADLINE_S - self._now
        if call.is_done:
            return
        if left_s <= 0:
            self._lose(call)
            return
        running = call.running
        if running and call.runs + len(running) < MAX_RUNS:
            stopped = all(self._stopped(call, attempt) for attempt in running)
            late = all(self._late(call, attempt) for attempt in running)
            if (stopped or (late and call.gateway.extra.take())) and self._start(call) and self._is_after_fault(call):
                self._extra += 1
        self._at(self._now + min(CHECK_EVERY_S, max(0.01, left_s / 8)), lambda: self._check(call))

    def _late(self, call: Call, attempt: Attempt) -> bool:
        deadline_s = call.came_at + DEADLINE_S - attempt.sent_at
        load = call.gateway.loads[attempt.place]
        return is_late(load, attempt.sent_at, attempt.expected_s, deadline_s, self._now)

    def _lose(self, call: Call) -> None:
        call.is_done = True
        self._withdraw(call)
        if self._is_after_fault(call):
            self._after_fault += 1
            self._lost += 1

    def _is_after_fault(self, call: Call) -> bool:
        return call.came_at >= self._seconds / 4

    def _probe(self, gateway: Gateway) -> None:
        """Look at each engine's /ready."""
        if self._now >= self._seconds + DEADLINE_S:
            return
        self._at(self._now + PROBE_EVERY_S, lambda: self._probe(gateway))
        gone: set[int] = set()
        for place, engine in enumerate(self._engines):
            load = gateway.loads[place]
            if engine.fault == "killed":
                gone.add(place)
            elif engine.fault == "frozen":
                if self._now - load.heard_at >= PROBE_TIMEOUT_S:
                    gone.add(place)
            else:
                load.heard_at = self._now
                load.report(engine.queued_tokens(self._now), engine.rate, engine.rate, self._now)
        if gone - gateway.away:
            gateway.leave_out(gone)


def simulate(engines: int, fault: Fault, policy: Policy, seconds: float, seed: int = 0) -> Outcome:
    """One run with the gateways that go with so many engines, or one for each three."""
    return Simulation(engines, SIZES.get(engines, -(-engines // 3)), fault, policy, seconds, seed).run()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--seconds", type=float, help="simulated; by default 8 to 120, less for more engines")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| engines | fault | policy | calls | lost | p50 ms | p99 ms | longest ms | to faulty engines | sent twice |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for engines in options.engines:
        seconds = options.seconds or max(8.0, min(120.0, 1200 / engines))
        for fault in FAULTS if engines > 1 else FAULTS[:1]:
            for policy in POLICIES:
                one = simulate(engines, fault, policy, seconds, options.seed)
                print(
                    f"| {engines:,} | {fault} | {policy} | {one.calls:,} | {one.lost:,} | {one.p50_ms:.0f} | "
                    f"{one.p99_ms:.0f} | {one.max_ms:,.0f} | {one.faulty_share:.1%} | {one.extra_share:.1%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
