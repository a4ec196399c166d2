"""What happened when: one row for each stretch of time, in bounded memory, however long the test.

Offered, late and latencies count when a request was due; served, failed and tiers when it ended.
"""

from collections import Counter
from dataclasses import dataclass, field

from loadtest.histogram import Histogram
from loadtest.open_loop import Sample

WIDTHS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
MAX_ROWS = 60  # planned; twice as many with what ends late


@dataclass(frozen=True, slots=True)
class Row:
    """One stretch of time; rates are its counts divided by `Timeline.width_s`."""

    offered: int
    served: int
    failed: int
    dropped: int
    tiers: dict[str, int]
    p50_ms: float | None  # None: nothing that was due then was answered
    p99_ms: float | None
    max_ms: float | None
    lag_ms: float | None  # the latest that the generator sent a request of this stretch


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rows from the start on, the warm-up included; the last one has all that ended later."""

    width_s: float
    warmup_s: float
    rows: list[Row]


@dataclass
class _Counts:
    offered: int = 0
    served: int = 0
    failed: int = 0
    dropped: int = 0
    lag_s: float | None = None
    tiers: Counter[str] = field(default_factory=Counter)
    latencies: Histogram | None = None


class TimelineBuilder:
    """Takes samples as they come."""

    def __init__(self, planned_s: float, warmup_s: float) -> None:
        self._warmup_s = warmup_s
        self.width_s = next((width for width in WIDTHS_S if planned_s / width <= MAX_ROWS), planned_s / MAX_ROWS)
        self._rows: list[_Counts] = []

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        due, ended = self._at(sample.due_s), self._at(sample.due_s + sample.latency_s)
        due.offered += 1
        due.lag_s = max(due.lag_s or 0.0, sample.lag_s)
        if sample.answer is None:
            ended.failed += 1
            return
        ended.served += 1
        ended.tiers.update(sample.answer.tiers)
        due.latencies = due.latencies or Histogram()
        due.latencies.add(sample.latency_s)

    def build(self, dropped: list[float]) -> Timeline:
        """The rows so far; `dropped` has the times at which dropped arrivals were due."""
        by_row = Counter(self._place(due_s) for due_s in dropped)
        if by_row:
            self._fill(max(by_row))
        rows = [_row(counts, by_row.get(place, 0)) for place, counts in enumerate(self._rows)]
        return Timeline(self.width_s, self._warmup_s, rows)

    def _place(self, at_s: float) -> int:
        return min(int(at_s / self.width_s), 2 * MAX_ROWS - 1)

    def _at(self, at_s: float) -> _Counts:
        place = self._place(at_s)
        self._fill(place)
        return self._rows[place]

    def _fill(self, place: int) -> None:
        while len(self._rows) <= place:
            self._rows.append(_Counts())


def _row(counts: _Counts, dropped: int) -> Row:
    found = counts.latencies
    p50, p99, most = (None, None, None) if found is None else (found.percentile(50), found.percentile(99), found.max_s)
    return Row(
        offered=counts.offered + dropped,
        served=counts.served,
        failed=counts.failed,
        dropped=dropped,
        tiers=dict(counts.tiers),
        p50_ms=_ms(p50),
        p99_ms=_ms(p99),
        max_ms=_ms(most),
        lag_ms=_ms(counts.lag_s),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
