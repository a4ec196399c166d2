"""The load test against a server whose latencies and stalls are known, on a clock of its own.

Nothing here depends on the machine: the server sleeps in the same made-up time as the generator.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from loadtest.client import Answer
from loadtest.figures import percentile
from loadtest.open_loop import OpenLoop
from loadtest.report import Collector, Report, summarise
from loadtest.streams import marked, replay
from loadtest.workload import Arrival, Pace, arrivals
from tests.unit.test_loadtest_open_loop import FakeTime
from tests.unit.test_loadtest_report import SETTINGS

RATE, SECONDS = 100.0, 20.0
ANSWER = Answer(["v"], "miss", ["miss"], 3)
Service = Callable[[int, float], float]  # number of the request and time, to the seconds that it takes


async def measured(service: Service, *, oversleep_s: float = 0.0, max_in_flight: int = 100_000) -> Report:
    """An open loop's report of a server that answers as `service` says."""
    time, collector = FakeTime(), Collector(0.0, SECONDS)
    number = 0

    async def send(_arrival: Arrival) -> Answer:
        nonlocal number
        number += 1
        await time.sleep(service(number, time.now))
        return ANSWER

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds + oversleep_s)

    loop = OpenLoop(
        send,
        max_in_flight,
        clock=time.clock,
        sleep=sleep,
        on_sample=lambda arrival, sample: collector.add(sample, arrival),
    )
    planned = arrivals(marked(replay(["a", "b"])), rate=RATE, seconds=SECONDS, pace=Pace.CONSTANT)
    running = asyncio.create_task(loop.run(planned))
    await time.advance()
    await running
    settings = replace(SETTINGS, rate=RATE, seconds=SECONDS, warmup=0.0)
    return summarise(settings, collector, loop.dropped)


async def test_percentiles_of_a_known_distribution() -> None:
    """Each percentile is that of the latencies that the server had, at most 0.1 % above."""
    known = np.random.default_rng(1).lognormal(-5, 1.2, 2000).tolist()
    report = await measured(lambda number, _now: known[number - 1])
    ordered = sorted(known)
    assert report.latency is not None
    assert report.latency.count == 2000
    for percent, found in ((50, report.latency.p50_ms), (95, report.latency.p95_ms), (99, report.latency.p99_ms)):
        exact = 1000 * percentile(ordered, percent)
        assert exact - 0.001 <= found <= exact * 1.001 + 0.001
    assert report.latency.max_ms == pytest.approx(1000 * ordered[-1])
    assert report.is_valid


def stalled(now: float) -> float:
    """A server of 1 ms that answers nothing from 10 s to 12 s."""
    return 12.0 - now + 0.001 if 10.0 <= now < 12.0 else 0.001


async def test_a_stall_shows_in_full() -> None:
    """A stall of 2 s in 20 s is a tenth of the requests, and their waits are spread evenly up to 2 s.

    A closed loop with one client sends a single request into it, which its 99th percentile hides.
    """
    report = await measured(lambda _number, now: stalled(now))
    assert report.latency is not None
    assert report.latency.max_ms == pytest.approx(2001, abs=1)
    assert report.latency.p99_ms == pytest.approx(1800, rel=0.02)  # the slowest tenth from 0 to 2 s
    assert report.latency.p95_ms == pytest.approx(1000, rel=0.02)
    now, closed = 0.0, []
    while now < SECONDS:
        closed.append(stalled(now))
        now += closed[-1]
    assert 1000 * percentile(sorted(closed), 99) < 2  # what a closed loop would have reported
    slowest = max(report.timeline.rows, key=lambda row: row.max_ms or 0)
    assert report.timeline.rows.index(slowest) == int(10.0 / report.timeline.width_s)


async def test_the_generators_lateness_is_not_the_servers() -> None:
    """A generator that wakes 50 ms late says so, is no valid measurement, and its lateness is told apart."""
    report = await measured(lambda _number, _now: 0.002, oversleep_s=0.05)
    assert report.generator.lag is not None
    assert report.generator.lag.p50_ms >= 50
    assert report.generator.fell_behind
    assert not report.is_valid
    assert report.latency is not None
    assert report.latency_from_sent is not None
    assert report.latency.p50_ms >= 52
    assert report.latency_from_sent.max_ms == pytest.approx(2, rel=0.01)


async def test_a_server_that_does_not_keep_up_is_seen_although_requests_are_dropped() -> None:
    """Requests beyond the bound are counted as never sent, and make the latencies invalid."""
    report = await measured(lambda _number, _now: 5.0, max_in_flight=50)
    assert report.generator.dropped > 0
    assert report.answered + report.generator.dropped == RATE * SECONDS
    assert not report.is_valid
    assert sum(row.offered for row in report.timeline.rows) == RATE * SECONDS
