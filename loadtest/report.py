"""From samples to figures: what a load test found, as one value that prints, and dumps as JSON.

Requests due during the warm-up are sent but not counted.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field

import orjson

from common.credentials import shown_url
from loadtest.figures import Latencies, latencies
from loadtest.open_loop import Sample
from loadtest.tiers import HITS, MISS
from loadtest.verify import Verification

FELL_BEHIND_S = 0.010  # a generator later than this at its 99th percentile did not send the load it claims


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
    batch: int
    seed: int
    connections: int
    max_in_flight: int
    cache_control: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One answered request, for plots: when it was due, how long it took, and its tier."""

    due_s: float
    latency_s: float
    tier: str


@dataclass
class Collector:
    """Takes samples as they come; keeps numbers, not vectors, so that a long test fits in memory."""

    warmup: float = 0.0
    points: list[Point] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    last_done_s: float = 0.0

    def add(self, sample: Sample) -> None:
        """Count one sample, unless it was due during the warm-up."""
        if sample.due_s < self.warmup:
            return
        self.lags_s.append(sample.lag_s)
        self.last_done_s = max(self.last_done_s, sample.due_s + sample.latency_s)
        if sample.answer is None:
            self.errors[sample.error or "unknown"] += 1
            return
        self.points.append(Point(sample.due_s, sample.latency_s, sample.answer.tier))
        self.items.update(sample.answer.tiers)
        self.tokens += sample.answer.tokens

    @property
    def hit_rate(self) -> float | None:
        """Share of texts answered from a cache, of those whose tier is known; None before the first."""
        known = sum(self.items[tier] for tier in (*HITS, MISS))
        return sum(self.items[tier] for tier in HITS) / known if known else None


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
    """Everything a load test found. Rates are per second of the counted time `elapsed_s`."""

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
    latency: Latencies | None
    latency_by_tier: dict[str, Latencies]
    generator: Generator
    verification: Verification | None = None

    def to_json(self) -> bytes:
        """The report as indented JSON; derived verdicts are written out."""
        payload = asdict(self)
        payload["settings"]["url"] = shown_url(self.settings.url)
        payload["generator"]["fell_behind"] = self.generator.fell_behind
        if self.verification is not None:
            payload["verification"]["false_reuse_rate"] = self.verification.false_reuse_rate
        return orjson.dumps(payload, option=orjson.OPT_INDENT_2)


def summarise(
    settings: Settings,
    collector: Collector,
    dropped: list[float],
    *,
    sending_s: float | None = None,
    verification: Verification | None = None,
) -> Report:
    """Figures of a finished run; `sending_s` is how long it really sent, when it was interrupted."""
    sent_s = settings.warmup + settings.seconds if sending_s is None else sending_s
    elapsed_s = max(sent_s, collector.last_done_s) - settings.warmup
    per_s = 1 / elapsed_s if elapsed_s > 0 else 0.0
    counted_drops = sum(1 for due_s in dropped if due_s >= settings.warmup)
    return Report(
        settings=settings,
        elapsed_s=max(elapsed_s, 0.0),
        answered=len(collector.points),
        failed=collector.errors.total(),
        errors=dict(collector.errors.most_common()),
        items=dict(collector.items.most_common()),
        hit_rate=collector.hit_rate,
        answered_per_s=len(collector.points) * per_s,
        texts_per_s=collector.items.total() * per_s,
        tokens_per_s=collector.tokens * per_s,
        latency=latencies([point.latency_s for point in collector.points]),
        latency_by_tier=_by_tier(collector.points),
        generator=Generator(latencies(collector.lags_s), counted_drops),
        verification=verification,
    )


def _by_tier(points: list[Point]) -> dict[str, Latencies]:
    groups: dict[str, list[float]] = {}
    for point in points:
        groups.setdefault(point.tier, []).append(point.latency_s)
    return {tier: figures for tier in sorted(groups) if (figures := latencies(groups[tier])) is not None}
