"""From samples to figures: what a load test found, as one value that prints, dumps as JSON and is read back.

Requests due during the warm-up are sent but not counted; the time line alone shows them.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from common.credentials import shown_url
from loadtest.bench.machine import Machine
from loadtest.figures import Latencies
from loadtest.histogram import Histogram
from loadtest.open_loop import Sample
from loadtest.server_watch import ServerSeries
from loadtest.tiers import HITS, MISS
from loadtest.timeline import Timeline, TimelineBuilder
from loadtest.verify import Verification
from loadtest.workload import Arrival

FORMAT = 2  # of the JSON: another one cannot be read
FELL_BEHIND_S = 0.010  # a generator later than this at its 99th percentile did not send the load it claims
ALL = "all"
MAX_REPORT_BYTES = 64 << 20


class ReportError(ValueError):
    """A file that is no report of this version."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The load that was requested; printed with the figures, since they mean nothing without it."""

    url: str
    model: str
    texts: str
    distinct_texts: int
    workload: str
    pace: str
    rate: float
    seconds: float
    warmup: float
    batch: str
    seed: int
    connections: int
    max_in_flight: int
    cache_control: str | None = None
    workload_sha256: str | None = None  # of times and texts, where they were planned before they were sent


@dataclass
class Collector:
    """Takes samples as they come; keeps counts, not vectors, so that a long test fits in memory."""

    warmup: float = 0.0
    planned_s: float = 60.0
    errors: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: int = 0
    answered: int = 0
    last_done_s: float = 0.0

    def __post_init__(self) -> None:
        self.latencies: dict[str, Histogram] = {ALL: Histogram()}
        self.lags = Histogram()
        self.from_sent = Histogram()
        self.timeline = TimelineBuilder(self.planned_s, self.warmup)

    def add(self, sample: Sample, arrival: Arrival | None = None) -> None:
        """Count one sample; one that was due during the warm-up in the time line alone."""
        self.timeline.add(sample)
        if sample.due_s < self.warmup:
            return
        self.lags.add(sample.lag_s)
        self.last_done_s = max(self.last_done_s, sample.due_s + sample.latency_s)
        if sample.answer is None:
            self.errors[sample.error or "unknown"] += 1
            return
        self.answered += 1
        self.latencies[ALL].add(sample.latency_s)
        self.latencies.setdefault(sample.answer.tier, Histogram()).add(sample.latency_s)
        self.from_sent.add(max(sample.latency_s - sample.lag_s, 0.0))
        self.items.update(sample.answer.tiers)
        if arrival is not None and arrival.kinds:
            self.kinds.update(zip(arrival.kinds, sample.answer.tiers, strict=True))
        self.tokens += sample.answer.tokens

    @property
    def hit_rate(self) -> float | None:
        """Share of texts answered from a cache, of those whose tier is known; None before the first."""
        return hit_share(self.items)


@dataclass(frozen=True, slots=True)
class Generator:
    """How well the load was made: lag is the time from due to sent; dropped arrivals were never sent."""

    lag: Latencies | None
    dropped: int

    @property
    def fell_behind(self) -> bool:
        """Whether requests were sent late, so that the load was not the requested one."""
        return self.lag is not None and self.lag.p99_ms > 1000 * FELL_BEHIND_S


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a load test found. Rates are per second of the counted time `elapsed_s`.

    `latency` counts from when a request was due, `latency_from_sent` leaves the generator's own lateness out.
    `histograms` has HdrHistogram's form by tier. `kinds` has texts by what they were to the stream, then by tier.
    """

    settings: Settings
    elapsed_s: float
    answered: int
    failed: int
    errors: dict[str, int]
    items: dict[str, int]
    hit_rate: float | None
    answered_per_s: float
    texts_per_s: float
    tokens_per_s: float
    tokens: int
    latency: Latencies | None
    latency_from_sent: Latencies | None
    latency_by_tier: dict[str, Latencies]
    histograms: dict[str, str]
    kinds: dict[str, dict[str, int]]
    generator: Generator
    timeline: Timeline
    started: str = ""  # UTC, ISO 8601
    machine: Machine | None = None  # the one that the load test ran on
    server: ServerSeries | None = None
    verification: Verification | None = None
    interrupted_after_s: float | None = None  # counted seconds until Ctrl-C; None: the test ran to its end
    format: int = FORMAT

    @property
    def is_the_servers(self) -> bool:
        """Whether these latencies may be called the server's: the generator dropped nothing, and was on time."""
        return not self.generator.fell_behind and not self.generator.dropped

    @property
    def is_valid(self) -> bool:
        """Whether the test was the one that was asked for: sent whole and on time."""
        return self.is_the_servers and self.interrupted_after_s is None

    @property
    def interruption(self) -> str:
        """What must be said of a test that Ctrl-C ended; else nothing."""
        if self.interrupted_after_s is None:
            return ""
        return (
            f"Interrupted after {self.interrupted_after_s:.1f} of {self.settings.seconds:g} s: "
            "these figures are of that time alone."
        )

    def to_json(self, **more: Any) -> bytes:
        """The report as indented JSON; derived verdicts are written out, and `more` beside them."""
        payload = asdict(self)
        payload["settings"]["url"] = shown_url(self.settings.url)
        payload["generator"]["fell_behind"] = self.generator.fell_behind
        payload["is_valid"] = self.is_valid
        if self.verification is not None:
            payload["verification"]["false_reuse_rate"] = self.verification.false_reuse_rate
        return orjson.dumps(payload | more, option=orjson.OPT_INDENT_2)


def read_report(path: Path) -> Report:
    """A report that `to_json` wrote. Raises ReportError and OSError."""
    with path.open("rb") as file:
        content = file.read(MAX_REPORT_BYTES + 1)
    if len(content) > MAX_REPORT_BYTES:
        raise ReportError(f"{path} is larger than any report of a load test")
    try:
        payload = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ReportError(f"{path} is not JSON: {error}") from None
    found = payload.get("format") if isinstance(payload, dict) else None
    if found != FORMAT:
        raise ReportError(f"{path} is not a report of this version's `dejavec loadtest --json` (format {FORMAT})")
    try:
        return TypeAdapter(Report).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ReportError(f"{path} is not a report of a load test: {where}: {first['msg']}") from None


def summarise(
    settings: Settings,
    collector: Collector,
    dropped: list[float],
    *,
    sending_s: float | None = None,
    verification: Verification | None = None,
    server: ServerSeries | None = None,
    machine: Machine | None = None,
    started: datetime | None = None,
) -> Report:
    """Figures of a finished run; `sending_s` is how long it really sent, when it was interrupted."""
    sent_s = settings.warmup + settings.seconds if sending_s is None else sending_s
    elapsed_s = max(sent_s, collector.last_done_s) - settings.warmup
    per_s = 1 / elapsed_s if elapsed_s > 0 else 0.0
    counted_drops = sum(1 for due_s in dropped if due_s >= settings.warmup)
    tiers = sorted(tier for tier in collector.latencies if tier != ALL)
    kinds: dict[str, dict[str, int]] = {}
    for (kind, tier), count in collector.kinds.most_common():
        kinds.setdefault(kind, {})[tier] = count
    return Report(
        settings=settings,
        elapsed_s=max(elapsed_s, 0.0),
        answered=collector.answered,
        failed=collector.errors.total(),
        errors=dict(collector.errors.most_common()),
        items=dict(collector.items.most_common()),
        hit_rate=collector.hit_rate,
        answered_per_s=collector.answered * per_s,
        texts_per_s=collector.items.total() * per_s,
        tokens_per_s=collector.tokens * per_s,
        tokens=collector.tokens,
        latency=figures_of(collector.latencies[ALL]),
        latency_from_sent=figures_of(collector.from_sent),
        latency_by_tier={tier: row for tier in tiers if (row := figures_of(collector.latencies[tier])) is not None},
        histograms={tier: collector.latencies[tier].encode() for tier in (ALL, *tiers)},
        kinds=kinds,
        generator=Generator(figures_of(collector.lags), counted_drops),
        timeline=collector.timeline.build(dropped),
        started=(started or datetime.now(UTC)).isoformat(timespec="seconds"),
        machine=machine,
        server=server,
        verification=verification,
        interrupted_after_s=None if sending_s is None else max(sending_s - settings.warmup, 0.0),
    )


def figures_of(histogram: Histogram) -> Latencies | None:
    """Percentiles in milliseconds; None of an empty histogram."""
    if not histogram.count:
        return None
    p50, p95, p99 = (1000 * histogram.percentile(percent) for percent in (50, 95, 99))
    return Latencies(histogram.count, p50, p95, p99, 1000 * histogram.max_s)


def hit_share(items: dict[str, int]) -> float | None:
    """Share of hits among the texts whose tier is known; None without such."""
    known = sum(items.get(tier, 0) for tier in (*HITS, MISS))
    return sum(items.get(tier, 0) for tier in HITS) / known if known else None
