"""What every request adds to, counted in plain numbers and handed to its metric once a second, and before it is shown.

    TEXTS = Tally(Counter("cache_requests_total", ...))
    TEXTS.count += 3            # in the request, on the event loop
    hand_over()                 # all of them

Under several workers one increment of a prometheus-client metric is a write to a mapped file behind a lock: the nine of
a cached answer were a tenth of its CPU time.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram


class _HandsOver(Protocol):
    def hand_over(self) -> None: ...


_ALL: list[_HandsOver] = []  # as many as there are metrics of requests, and models


def hand_over() -> None:
    """Give all metrics what was counted since the last time."""
    for one in _ALL:
        one.hand_over()


class Tally:
    """A counter's growth."""

    __slots__ = ("_counter", "count")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.count = 0
        _ALL.append(self)

    def hand_over(self) -> None:
        """Add what was counted to the counter."""
        if self.count:
            count, self.count = self.count, 0
            self._counter.inc(count)


class Level:
    """What a gauge is to show."""

    __slots__ = ("_gauge", "now")

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self.now = 0
        _ALL.append(self)

    def hand_over(self) -> None:
        """Set the gauge."""
        self._gauge.set(self.now)


class Durations:
    """Durations for a histogram, or a labelled child of one, with these buckets."""

    __slots__ = ("_buckets", "_child", "_counts", "_sum_s")

    def __init__(self, child: Histogram, buckets: Sequence[float]) -> None:
        self._child = child
        self._buckets = tuple(buckets)
        self._counts = [0] * (len(self._buckets) + 1)
        self._sum_s = 0.0
        _ALL.append(self)

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._buckets, seconds)] += 1
        self._sum_s += seconds

    def hand_over(self) -> None:
        """Add what was counted to the histogram."""
        if not any(self._counts):
            return
        counts, sum_s = self._counts, self._sum_s
        self._counts, self._sum_s = [0] * len(counts), 0.0
        self._child._sum.inc(sum_s)
        for bucket, count in zip(self._child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
