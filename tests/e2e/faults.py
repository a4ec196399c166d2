"""What happens when parts of a running dejavec are killed, frozen, flooded or replaced, as two tables.

    python -m tests.e2e.faults                      all faults, about six minutes, the tables on standard output
    python -m tests.e2e.faults --write docs/faults.md

The second table is `tests.e2e.fleet_faults`'. For the first, one `dejavec up` with the default model, two gateway
workers and no in-process cache (so that every hit is Redis') serves closed-loop clients; half of their requests must be
computed. Every answered vector is compared, bit for bit, with the one computed before, alone and uncached.
"""

import argparse
import asyncio
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e import fleet_faults
from tests.e2e.load import GRACE_S, MODEL, Load, Tally, Truth, true_vectors
from tests.e2e.stack import Run, running

BUNDLE = Path(__file__).parents[2] / ".dejavec/models/all-MiniLM-L6-v2"
DEADLINE_S = 5.0
CLIENTS = 8
PATIENCE_S = 120.0
FLEET_FAULT_S = 10.0
STEADY_S = 2.5  # the breakers' first trials and a worker's replacement come sooner
SETTINGS = {
    "DEJAVEC_GATEWAY_WORKERS": "2",
    "DEJAVEC_LOCAL_CACHE_MB": "0",
    "DEJAVEC_REQUEST_TIMEOUT_S": str(DEADLINE_S),
    "DEJAVEC_BODY_TIMEOUT_S": "2",
    "DEJAVEC_SEND_TIMEOUT_S": "2",
    "DEJAVEC_MAX_CONCURRENT_REQUESTS": "24",
    "DEJAVEC_WATCH_INTERVAL_S": "5",  # the defaults: a process frozen for ten seconds is left alone
    "DEJAVEC_WATCH_FAILURES": "12",
}

Inflict = Callable[[Run, float], Awaitable[None]]  # returns when the fault is over; given its length in seconds


@dataclass(frozen=True, slots=True)
class Fault:
    """One row: what is done, for how long, under which load."""

    name: str
    inflict: Inflict
    length_s: float = 0.0
    retrying: bool = False
    clients: int = CLIENTS


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's figures. `whole_after_s` counts from the end of the fault; None: not within PATIENCE_S."""

    fault: Fault
    tally: Tally
    whole_after_s: float | None


def kill(name: str) -> Inflict:
    """kill -9 of a process of the stack; its supervisor is to replace it."""

    async def inflict(run: Run, _: float) -> None:
        process(run, name).kill()

    return inflict


def freeze(name: str) -> Inflict:
    """SIGSTOP, and SIGCONT after a while."""

    async def inflict(run: Run, length_s: float) -> None:
        frozen = process(run, name)
        frozen.suspend()
        try:
            await asyncio.sleep(length_s)
        finally:
            frozen.resume()

    return inflict


def replace(name: str) -> Inflict:
    """SIGTERM, as a rolling restart sends it: running work is finished, then a new process takes over."""

    async def inflict(run: Run, _: float) -> None:
        old = process(run, name)
        old.send_signal(signal.SIGTERM)
        while old.is_running() and old.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)

    return inflict


async def nothing(run: Run, length_s: float) -> None:
    """No fault, for comparison."""
    await asyncio.sleep(length_s)


async def never_read(run: Run, length_s: float) -> None:
    """Twenty clients ask for large answers, again and again on one connection, and never read a byte."""
    async with connections(run, 20) as writers:
        for writer in writers:
            writer.write(request({"model": MODEL, "input": ["a"] * 2048}) * 20)
        await asyncio.sleep(length_s)


async def drip(run: Run, length_s: float) -> None:
    """Twenty clients send a body of one megabyte at ten bytes a second."""
    until = time.monotonic() + length_s
    head = request({}, length=1_000_000).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    async with connections(run, 20) as writers:
        for writer in writers:
            writer.write(head)
        while time.monotonic() < until:
            for writer in writers:
                if not writer.is_closing():
                    writer.write(b" ")
            await asyncio.sleep(0.1)


def process(run: Run, name: str) -> psutil.Process:
    """The engine, Redis, the gateway's parent, or one of its workers."""
    if name != "worker":
        return run.child(name)
    workers = run.child("gateway").children()
    return next(one for one in workers if "spawn_main" in " ".join(one.cmdline()))


def request(body: dict[str, object], length: int | None = None) -> bytes:
    """One request as it is on the wire."""
    content = json.dumps(body).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (length or len(content), content)
    )


@asynccontextmanager
async def connections(run: Run, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Open connections to the gateway that nobody reads from."""
    writers = [(await asyncio.open_connection("127.0.0.1", run.port, limit=1))[1] for _ in range(count)]
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


FAULTS = [
    Fault("none", nothing, 5),
    Fault("engine: kill -9", kill("engine")),
    Fault("gateway worker: kill -9", kill("worker")),
    Fault("Redis: kill -9", kill("redis-server")),
    Fault("Redis: frozen (SIGSTOP) 10 s", freeze("redis-server"), 10),
    Fault("engine: frozen (SIGSTOP) 10 s", freeze("engine"), 10),
    Fault("full: 96 clients, room for 48", nothing, 5, clients=96),
    Fault("20 clients never read", never_read, 5),
    Fault("20 clients drip their body", drip, 5),
    Fault("engine replaced (SIGTERM), retrying clients", replace("engine"), retrying=True),
    Fault("gateway replaced (SIGTERM), retrying clients", replace("gateway"), retrying=True),
]


async def measure(run: Run, fault: Fault, truth: Truth) -> Outcome:
    """Load, fault, and load until all is whole again."""
    load = Load([f"http://127.0.0.1:{run.port}"], DEADLINE_S, truth)
    clients = load.run_retrying(fault.clients) if fault.retrying else load.run_plain(fault.clients)
    overload = fault.clients > CLIENTS  # the load itself is the fault, and ends with it
    task = asyncio.create_task(clients)
    await asyncio.sleep(1)
    after_s = None
    try:
        await fault.inflict(run, fault.length_s)
        healed_at = time.monotonic()
        while not overload and after_s is None and time.monotonic() < healed_at + PATIENCE_S:
            await asyncio.sleep(0.1)
            after_s = _whole_for_a_while(load.tally, healed_at)
    finally:
        load.stop()
        await task
    return Outcome(fault, load.tally, after_s)


def _whole_for_a_while(tally: Tally, healed_at: float) -> float | None:
    """Seconds after which everything was answered again, once that has lasted for a while."""
    after_s = tally.whole_since(healed_at)
    return after_s if after_s is not None and time.monotonic() > healed_at + after_s + STEADY_S else None


@contextmanager
def stack(folder: Path, bundle: Path = BUNDLE) -> Iterator[Run]:
    """The processes all faults are done to."""
    with running(folder, DEJAVEC_MODEL_BUNDLE=str(bundle), **SETTINGS) as run:
        yield run


def table(outcomes: list[Outcome]) -> str:
    """Markdown."""
    lines = [
        "| fault | requests | answered | errors, by type | hung | longest wait | whole again after | wrong vectors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        tally = outcome.tally
        errors = ", ".join(f"{count} x {kind}" for kind, count in sorted(tally.errors.items())) or "none"
        after = "" if outcome.whole_after_s is None else f"{outcome.whole_after_s:.1f} s"
        lines.append(
            f"| {outcome.fault.name} | {tally.sent} | {tally.answered} | {errors} | {tally.hung} "
            f"| {tally.longest_s:.1f} s | {after} | {tally.wrong_vectors} |"
        )
    return "\n".join(lines)


async def measure_all(folder: Path) -> list[Outcome]:
    """Every fault in turn, on one stack."""
    with stack(folder) as run:
        url = f"http://127.0.0.1:{run.port}"
        truth = await true_vectors(url)
        outcomes = []
        for fault in FAULTS:
            outcomes.append(await measure(run, fault, truth))
            print(table(outcomes[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        return outcomes


PAGE = """# What happens when parts fail

Made by `{command}` on {machine}.

## One machine

{table}

One `dejavec up` with the default model, two gateway workers, no in-process cache, a deadline of {deadline:g} s for each
request and {clients} closed-loop clients; half of the requests must be computed, half are in Redis. The clients send
each request once, except in the last two rows, where they are `gateway.client.AsyncClient` and try again.

- *requests*, *answered*: sent, and answered with 200. What is neither answered nor an error does not exist.
- *errors, by type*: HTTP status and `error.code`; `connection lost` and `refused` are the client's view of a process
  that died. Every 429 and 503 carries `Retry-After`.
- *hung*: no answer {grace:g} s after the deadline.
- *whole again after*: from the fault (for a freeze, from its end) until hits and computed answers come again and
  nothing fails any more; gaps of up to half a second are not counted. Starting a process takes most of it.
- *wrong vectors*: answered vectors that differ in a bit from the one computed before, alone and uncached.

## Several gateways, several engines, a cluster

{fleet_table}

Three gateways, three engines and a Redis Cluster of three masters with a replica each, all of them processes; a tiny
random model, so that three engines fit on two cores; {fleet_clients} closed-loop clients, a deadline of
{fleet_deadline:g} s. Each fault lasts {length:g} s, a rolling change as long as it takes; then what was killed is
started again. A client whose gateway is gone sends its request to the next one. `tests/e2e/test_fleet_faults.py` does
each for a moment.

- *answers/s*, *p99*: before the fault → while it lasts. Generator and processes share the cores, so a killed process
  leaves more to the others.
- *whole again after*: from the fault's end until, besides, each gateway sees three engines serve and all of Redis.
- *wrong vectors*: those that differ in a bit from what the graph gives for the text alone, outside of any engine. The
  graph is that of the fingerprint which the answer names: an answer with vectors of two models counts too.
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.faults", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--write", type=Path, help="write a page with the tables to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dejavec-faults-") as folder:
        outcomes = asyncio.run(measure_all(Path(folder)))
    with tempfile.TemporaryDirectory(prefix="dejavec-faults-") as folder:
        of_fleet = asyncio.run(fleet_faults.measure_all(Path(folder), FLEET_FAULT_S))
    tables = table(outcomes), fleet_faults.table(of_fleet)
    print(*tables, sep="\n\n")
    if chosen.write:
        page = PAGE.format(
            command=f"python -m tests.e2e.faults --write {chosen.write}",
            machine=f"{psutil.cpu_count()} cores ({platform.machine()}, shared with other work)",
            table=tables[0],
            deadline=DEADLINE_S,
            clients=CLIENTS,
            grace=GRACE_S,
            fleet_table=tables[1],
            fleet_clients=fleet_faults.CLIENTS,
            fleet_deadline=fleet_faults.DEADLINE_S,
            length=FLEET_FAULT_S,
        )
        chosen.write.parent.mkdir(exist_ok=True)
        chosen.write.write_text(page)
    sys.exit(any(tally.wrong_vectors or tally.hung for tally in (one.tally for one in [*outcomes, *of_fleet])))


if __name__ == "__main__":
    main()
