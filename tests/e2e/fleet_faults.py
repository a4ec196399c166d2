"""What happens to a fleet of gateways, engines and Redis masters when some of them fail under load.

`tests.e2e.faults` makes a table of these; `tests/e2e/test_fleet_faults.py` runs them for a moment each. A fault lasts
while its block runs; what it has killed is started again at the block's end.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.tasks import cancel_and_wait
from deploy.embedded_redis import locate
from loadtest.figures import percentile
from tests.e2e.fleet import DEADLINE_S, TEXTS, Fleet, Server, fleet
from tests.e2e.load import Load, Tally, Truth

CLIENTS = 9
PATIENCE_S = 120.0
STEADY_S = 1.0
ENOUGH = 20  # hits, and as many computed answers, show that service goes on
STOPPED_S, RUNNING_S = 0.09, 0.01  # of a slow engine

Blocks = Callable[[Fleet], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: what is done to a fleet."""

    name: str
    lasting: Blocks


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's figures.

    before, meanwhile: moments between which there was no fault yet, and between which it lasted. went_on: hits and
    computed answers came while it lasted. whole_after_s: from its end until all was answered and all served again;
    None: not within PATIENCE_S.
    """

    fault: Fault
    tally: Tally
    before: tuple[float, float]
    meanwhile: tuple[float, float]
    went_on: bool
    whole_after_s: float | None

    def rate(self, span: tuple[float, float]) -> float:
        """Answers a second in a span."""
        return len(self._waits(span)) / (span[1] - span[0])

    def p99_ms(self, span: tuple[float, float]) -> float:
        """Of the answers that came in a span; 0 where none did."""
        return 1000 * percentile(sorted(waits), 99) if (waits := self._waits(span)) else 0.0

    def _waits(self, span: tuple[float, float]) -> list[float]:
        return [wait_s for at, wait_s in self.tally.waits if span[0] <= at <= span[1]]


@asynccontextmanager
async def nothing(_: Fleet) -> AsyncIterator[None]:
    """No fault, for comparison."""
    yield


@asynccontextmanager
async def killed(server: Server) -> AsyncIterator[None]:
    """SIGKILL; started again at the end."""
    await asyncio.to_thread(server.end)
    yield
    server.start()


@asynccontextmanager
async def frozen(server: Server) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send(signal.SIGCONT)


@asynccontextmanager
async def slow(server: Server) -> AsyncIterator[None]:
    """Stopped for nine tenths of the time, as if others had its core."""

    async def stop_and_go() -> None:
        while True:
            server.send(signal.SIGSTOP)
            await asyncio.sleep(STOPPED_S)
            server.send(signal.SIGCONT)
            await asyncio.sleep(RUNNING_S)

    task = asyncio.create_task(stop_and_go())
    try:
        yield
    finally:
        await cancel_and_wait([task])
        server.send(signal.SIGCONT)


@asynccontextmanager
async def master_killed(fleet: Fleet) -> AsyncIterator[None]:
    """SIGKILL of one of the cluster's masters; its replica takes over. At the end it comes back as a replica."""
    nodes = fleet.cluster.nodes
    master = next(one for one in nodes if fleet.cluster.ask(one, b"ROLE")[0] == b"master")
    os.kill(master.process.pid, signal.SIGKILL)
    yield
    await asyncio.to_thread(master.restart)


@asynccontextmanager
async def rolling_change(fleet: Fleet) -> AsyncIterator[None]:
    """Engine after engine ends (SIGTERM) and starts with the other weights; the next one when gateways have seen it."""
    fleet.bundles.reverse()
    for engine in fleet.engines:
        await asyncio.to_thread(engine.end, signal.SIGTERM)
        engine.settings["DEJAVEC_MODEL_BUNDLE"] = str(fleet.bundles[0])
        engine.start()
        await asyncio.to_thread(engine.wait_ready)
        await asyncio.to_thread(fleet.wait_engines_seen)
    yield


@asynccontextmanager
async def all_at_once(fleet: Fleet) -> AsyncIterator[None]:
    """One engine slow, one killed, one frozen, and a master killed."""
    async with AsyncExitStack() as stack:
        for fault, engine in zip((slow, killed, frozen), fleet.engines, strict=True):
            await stack.enter_async_context(fault(engine))
        await stack.enter_async_context(master_killed(fleet))
        yield


FAULTS = [
    Fault("none", nothing),
    Fault("engine: kill -9", lambda fleet: killed(fleet.engines[0])),
    Fault("engine: frozen (SIGSTOP)", lambda fleet: frozen(fleet.engines[1])),
    Fault("engine: slow (stopped nine tenths of the time)", lambda fleet: slow(fleet.engines[2])),
    Fault("engines: rolling change of the model", rolling_change),
    Fault("cluster master: kill -9", master_killed),
    Fault("gateway: kill -9, clients ask another", lambda fleet: killed(fleet.gateways[0])),
    Fault("engines: one slow, one killed, one frozen; cluster master: kill -9", all_at_once),
]


async def measure(fleet: Fleet, fault: Fault, truth: Truth, length_s: float) -> Outcome:
    """Load, a fault of so many seconds (or until service is seen to go on), and load until all is whole again."""
    load = Load([gateway.url for gateway in fleet.gateways], DEADLINE_S, truth, TEXTS)
    tally, task = load.tally, asyncio.create_task(load.run_plain(CLIENTS))
    try:
        loaded_at = time.monotonic()
        await _hold(tally, loaded_at, length_s / 2)
        began_at = time.monotonic()
        async with fault.lasting(fleet):
            went_on = await _hold(tally, began_at, length_s)
            ended_at = time.monotonic()
        after_s = await _whole_after_s(fleet, tally, ended_at)
    finally:
        load.stop()
        await task
    return Outcome(fault, tally, (loaded_at, began_at), (began_at, ended_at), went_on, after_s)


async def _hold(tally: Tally, began_at: float, length_s: float) -> bool:
    """Wait so long, and until enough answers of both kinds have come; whether they have."""
    while time.monotonic() < began_at + PATIENCE_S:
        await asyncio.sleep(0.05)
        came = all(len(answers) >= ENOUGH and answers[-ENOUGH] > began_at for answers in _answers(tally))
        if came and time.monotonic() >= began_at + length_s:
            return True
    return False


def _answers(tally: Tally) -> tuple[list[float], list[float]]:
    return tally.hits_at, tally.computed_at


async def _whole_after_s(fleet: Fleet, tally: Tally, ended_at: float) -> float | None:
    """Seconds from the fault's end until all was answered and each gateway saw all engines and masters serve."""
    sound_at: float | None = None
    while time.monotonic() < ended_at + PATIENCE_S:
        await asyncio.sleep(0.1)
        is_sound = await asyncio.to_thread(fleet.is_sound)
        sound_at = (sound_at or time.monotonic()) if is_sound else None
        answered_s = tally.whole_since(ended_at)
        if sound_at is not None and answered_s is not None:
            after_s = max(sound_at - ended_at, answered_s)
            if time.monotonic() > ended_at + after_s + STEADY_S:
                return after_s
    return None


async def measure_all(folder: Path, length_s: float) -> list[Outcome]:
    """Every fault in turn, on one fleet. Raises NotAvailable where there is no embedded Redis."""
    outcomes = []
    with fleet(folder, locate()) as running:
        truth = running.truth()
        for fault in FAULTS:
            outcomes.append(await measure(running, fault, truth, length_s))
            print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Markdown."""
    lines = [
        "| fault | requests | answered | errors, by type | hung | answers/s | p99 | longest wait | whole again after "
        "| wrong vectors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        tally = outcome.tally
        errors = ", ".join(f"{count} x {kind}" for kind, count in sorted(tally.errors.items())) or "none"
        after = "never" if outcome.whole_after_s is None else f"{outcome.whole_after_s:.1f} s"
        rates = " → ".join(f"{outcome.rate(span):,.0f}" for span in (outcome.before, outcome.meanwhile))
        p99s = " → ".join(f"{outcome.p99_ms(span):,.0f}" for span in (outcome.before, outcome.meanwhile))
        lines.append(
            f"| {outcome.fault.name} | {tally.sent} | {tally.answered} | {errors} | {tally.hung} | {rates} "
            f"| {p99s} ms | {tally.longest_s:.1f} s | {after} | {tally.wrong_vectors} |"
        )
    return "\n".join(lines)
