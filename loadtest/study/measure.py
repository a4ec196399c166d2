"""Measures candidates: accuracy first, then rounds in which they take turns, then chunks."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from loadtest.figures import Vector, latencies
from loadtest.study.candidates import TORCH, Candidate, LeftOut, StudyError
from loadtest.study.figures import BATCH, ChunkRun, Measured, Rate, accuracy
from loadtest.study.process import Failed, Worker, options_for

BASELINES = (TORCH, "onnx")  # the first of these that is there
WARM_UP_TEXTS = 8


class Loaded(Protocol):
    """A candidate that is ready: see `loadtest.study.process.Worker`."""

    candidate: Candidate
    ready: dict[str, Any]

    def vectors(self, texts: Sequence[str], batch: int) -> Vector:
        """float32[texts, dimensions]."""

    def time(self, texts: Sequence[str], batch: int) -> dict[str, Any]:
        """`used_s` and `wall_s` of each batch, `resident_bytes`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: texts, batch sizes, how many texts a round and size has at least, rounds, chunks."""

    texts: Sequence[str]
    sizes: Sequence[int]
    texts_a_round: int
    rounds: int
    chunks: Sequence[str] = ()


@dataclass
class Times:
    """Of one candidate: texts a second of each round by batch size, seconds of each single text."""

    rates: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    singles_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured, whose vectors were the baseline, and what failed."""

    measured: list[Measured]
    baseline: str | None
    left_out: list[LeftOut]


def run(
    candidates: Sequence[Candidate],
    plan: Plan,
    *,
    core: int | None,
    bundle: Path,
    checkpoint: Path | None,
    folder: Path,
    calibration: Sequence[str],
    console: Console,
) -> Outcome:
    """Load all candidates, each in a process of its own on `core`, and measure them; those that fail are left out."""
    left_out: list[LeftOut] = []
    with ExitStack() as stack:
        workers = []
        for candidate in candidates:
            console.print(f"[dim]loading {candidate.name}[/]")
            try:
                options = options_for(
                    candidate, bundle=bundle, checkpoint=checkpoint, folder=folder, calibration=calibration
                )
                workers.append(stack.enter_context(Worker(candidate, options, core)))
            except StudyError as error:
                left_out.append(LeftOut(candidate.name, str(error)))
        outcome = measure(workers, plan, console)
    return Outcome(outcome.measured, outcome.baseline, [*left_out, *outcome.left_out])


def measure(workers: Sequence[Loaded], plan: Plan, console: Console) -> Outcome:
    """The figures of candidates that are ready. One that fails on the way is left out with its reason."""
    active, left_out = list(workers), list[LeftOut]()

    def guarded(worker: Loaded, step: str, call: Any) -> Any:
        try:
            return call()
        except Failed as error:
            active.remove(worker)
            left_out.append(LeftOut(worker.candidate.name, f"failed {step}: {error}"))
            return None

    console.print("[dim]accuracy[/]")
    vectors: dict[str, tuple[Vector, Vector]] = {}
    for worker in list(active):
        pair = guarded(worker, "with the texts", lambda: _both_ways(worker, plan.texts))  # noqa: B023  # called at once
        if pair is not None:
            vectors[worker.candidate.key] = pair
    baseline = next((key for key in BASELINES if key in vectors), None)
    times: dict[str, Times] = defaultdict(Times)
    for number in range(plan.rounds):
        console.print(f"[dim]round {number + 1} of {plan.rounds}[/]")
        start = number % max(len(active), 1)  # so that none always follows the same one
        for worker in active[start:] + active[:start]:
            guarded(worker, "in a round", lambda: _round(worker, plan, times[worker.candidate.key]))  # noqa: B023
    chunks: dict[str, ChunkRun | None] = {}
    for worker in list(active) if plan.chunks else ():
        console.print(f"[dim]{len(plan.chunks):,} chunks: {worker.candidate.name}[/]")
        chunks[worker.candidate.key] = guarded(worker, "with chunks", lambda: _chunk_run(worker, plan.chunks))  # noqa: B023
    against = vectors[baseline][1] if baseline else None
    measured = [
        _measured(worker, times[key], vectors[key], None if key == baseline else against, chunks.get(key))
        for worker in active
        if (key := worker.candidate.key)
    ]
    return Outcome(measured, baseline, left_out)


def _both_ways(worker: Loaded, texts: Sequence[str]) -> tuple[Vector, Vector]:
    return worker.vectors(texts, 1), worker.vectors(texts, BATCH)


def _round(worker: Loaded, plan: Plan, times: Times) -> None:
    """Each batch size once, over the same texts for all; texts repeat where there are fewer."""
    worker.time(plan.texts[:WARM_UP_TEXTS], WARM_UP_TEXTS)  # caches were the other candidates' meanwhile
    for size in plan.sizes:
        wanted = -(-plan.texts_a_round // size) * size
        texts = [plan.texts[place % len(plan.texts)] for place in range(wanted)]
        taken = worker.time(texts, size)
        times.rates[size].append(wanted / max(sum(taken["used_s"]), 1e-9))
        if size == 1:
            times.singles_s += taken["wall_s" if worker.candidate.over_http else "used_s"]


def _chunk_run(worker: Loaded, chunks: Sequence[str]) -> ChunkRun:
    taken = worker.time(chunks, BATCH)
    spread = latencies(taken["used_s"])
    assert spread is not None
    return ChunkRun(len(chunks), sum(taken["used_s"]), sum(taken["wall_s"]), spread, taken["resident_bytes"])


def _measured(
    worker: Loaded, times: Times, pair: tuple[Vector, Vector], baseline: Vector | None, chunks: ChunkRun | None
) -> Measured:
    candidate, ready = worker.candidate, worker.ready
    spread = latencies(times.singles_s)
    assert spread is not None
    return Measured(
        key=candidate.key,
        name=candidate.name,
        group=candidate.group,
        over_http=candidate.over_http,
        packages=ready["packages"],
        size_bytes=ready["size_bytes"],
        resident_bytes=ready["resident_bytes"],
        load_s=ready["load_s"],
        rates={size: Rate(max(rates), statistics.median(rates)) for size, rates in times.rates.items()},
        latency=spread,
        accuracy=accuracy(*pair, baseline),
        chunks=chunks,
    )
