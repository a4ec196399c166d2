"""From a load test's options to its requests: texts read, drawn, put in time; or a workload file as it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from common.texts import Format, Texts
from loadtest.streams import WorkloadError
from loadtest.texts import DEFAULT_NAME, read_lines, read_pairs, read_times
from loadtest.workload import Arrival, Batches, Drawing, Law, Pace, arrivals, recorded, seeds
from loadtest.workload_file import Workload, collect, read

MAX_PLANNED_TEXTS = 2_000_000  # planned before the first is sent, and so hashed; a longer test draws as it goes


@dataclass(frozen=True, slots=True)
class Source:
    """The file of texts and what of it to read."""

    file: Path | None = None
    format: Format | None = None
    field: str = "text"
    pair_field: str = "paraphrase"
    time_field: str = "time"
    bad_lines_file: Path | None = None

    @property
    def name(self) -> str:
        """The file as it is shown."""
        return str(self.file or DEFAULT_NAME)


@dataclass
class Plan:
    """Requests for one test; `workload` holds them all, or is None where they are drawn as they are sent."""

    arrivals: Iterator[Arrival]
    described: dict[str, Any]
    distinct_texts: int
    workload: Workload | None = None
    tally: str = ""  # what became of the file's lines


class Planner:
    """Reads the texts once, then plans; consecutive plans go on where the texts of the last one ended."""

    def __init__(self, source: Source, drawing: Drawing, batches: Batches, pace: Pace, seed: int) -> None:
        """Raises TextsError and WorkloadError."""
        self._source, self._drawing, self._batches, self._pace, self._seed = source, drawing, batches, pace, seed
        self.tally = ""
        self._times: list[float] = []
        self._pairs: list[tuple[str, str]] = []
        self._texts: list[str] = []
        self._read()
        self._drawn = drawing.texts(self._texts, seeds(seed)[1], pairs=self._pairs)
        self._plans = 0

    def plan(self, rate: float, seconds: float, speed: float = 1.0) -> Plan:
        """Requests of `seconds` at `rate` a second; with RECORDED pace at the file's times, `speed` times as fast."""
        described = {
            "texts": self._source.name,
            "workload": str(self._drawing),
            "pace": f"recorded, {speed:g} times as fast" if self._pace is Pace.RECORDED else self._pace.value,
            "rate": rate,
            "seconds": seconds,
            "batch": str(self._batches),
            "seed": self._seed,
        }
        if self._pace is Pace.RECORDED:
            planned = recorded(self._times, self._texts, speed, seconds)
            return self._held(collect(planned, described))
        batches = self._batches
        planned = arrivals(
            self._drawn, rate=rate, seconds=seconds, batches=batches, pace=self._pace, seed=self._seed + self._plans
        )
        self._plans += 1
        mean = sum(s * w for s, w in zip(batches.sizes, batches.weights, strict=True)) / sum(batches.weights)
        if rate * seconds * mean <= MAX_PLANNED_TEXTS:
            return self._held(collect(planned, described))
        distinct = len(set(self._texts) | set(chain.from_iterable(self._pairs)))
        return Plan(planned, described, distinct, tally=self.tally)

    def _held(self, workload: Workload) -> Plan:
        if not workload.arrivals:
            raise WorkloadError("no request is due in that time: give a higher --rate or more --seconds")
        return Plan(iter(workload.arrivals), workload.described, workload.distinct_texts, workload, tally=self.tally)

    def _read(self) -> None:
        source = self._source
        if self._pace is Pace.RECORDED:
            if source.file is None or self._drawing.law is not Law.REPLAY:
                raise WorkloadError("--pace recorded replays a file: give --texts, and no other --workload")
            if self._batches.sizes != (1,):
                raise WorkloadError("--pace recorded sends one text a request: leave --batch out")
            self._times, self._texts = read_times(source.file, source.field, source.time_field, source.format)
        elif self._drawing.law is Law.PARAPHRASES:
            if source.file is None:
                raise WorkloadError("--workload paraphrases needs pairs: give --texts, --field and --pair-field")
            self._pairs = read_pairs(source.file, source.field, source.pair_field, source.format)
        else:
            lines: Texts = read_lines(
                source.file, format=source.format, field=source.field, bad_lines_file=source.bad_lines_file
            )
            self._texts = lines.texts
            if source.file is not None:
                cut = " (the rest is not read)" if lines.was_cut else ""
                self.tally = f"{source.file}: {lines.tally}{cut}"


def read_plan(path: Path) -> Plan:
    """A workload file as a plan. Raises WorkloadError and OSError."""
    workload = read(path)
    return Plan(iter(workload.arrivals), workload.described, workload.distinct_texts, workload)


__all__ = ["Plan", "Planner", "Source", "read_plan"]
