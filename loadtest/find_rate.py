"""The highest rate that keeps a bound on the 99th percentile, and what was at its limit above it.

Doubles the rate until a step breaks the bound, then halves the gap between the highest rate that kept it and the
lowest that did not. A step that breaks the bound only by the generator's own lateness is no result: it ends the
search, and the rate below is "at least". Steps go on in one stream of texts, so caches fill as they would; each names
its hit share.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from loadtest.report import Report
from loadtest.server_watch import ENGINE, GATEWAY, GENERATOR, ServerSeries
from loadtest.streams import WorkloadError

MAX_STEPS = 14
CLOSE_ENOUGH = 1.05  # between the rate that kept the bound and the one that broke it
MAX_FAILED_SHARE = 0.001
KEPT_UP = 0.9  # of the offered rate
BUSY_CORES = 0.85  # of one core: a gateway worker and the generator have one event loop each
QUEUE_SHARE = 0.3  # of the bound, spent waiting in the engine's queue
REDIS_SHARE = 0.25  # of the bound, spent in one coalesced look-up

INTERRUPTED = "interrupted"

Measure = Callable[[float], Awaitable[Report]]


class Interrupted(Exception):
    """Ctrl-C in a step, whose figures are then not those of its rate."""


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried; `broke` says by what it broke the bound, None where it kept it."""

    rate: float
    served_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int
    dropped: int
    hit_rate: float | None
    generator_late: bool
    broke: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """`rate` is None where even the lowest step broke the bound; `at_least` where the search ended below the limit."""

    p99_ms: float
    rate: float | None
    at_least: bool
    ended: str
    saturated: list[str]  # each with the figure that shows it; empty: nothing that was measured was at its limit
    steps: list[Step] = field(default_factory=list)

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return self.ended == INTERRUPTED


async def find_rate(measure: Measure, *, start: float, p99_ms: float, max_steps: int = MAX_STEPS) -> Found:
    """Search in up to `max_steps` steps; `measure` runs one at a rate. Raises what the first step raises."""
    steps: list[Step] = []
    kept: float | None = None
    broken: float | None = None
    last_broken: Report | None = None
    rate, ended = start, f"{max_steps} steps were made"
    while len(steps) < max_steps:
        try:
            report = await measure(rate)
        except (WorkloadError, Interrupted) as error:
            if not steps:
                raise
            ended = INTERRUPTED if isinstance(error, Interrupted) else "no text was left that had not been sent"
            break
        step = judge(report, rate, p99_ms)
        steps.append(step)
        if step.generator_late:
            ended, last_broken = "the generator could not send on time", report
            break
        if step.broke is None:
            kept = rate
        else:
            broken, last_broken = rate, report
        if broken is None:
            rate *= 2
        elif kept is None:
            if rate < 1:
                ended = "a request a second breaks the bound"
                break
            rate /= 2
        elif broken / kept <= CLOSE_ENOUGH:
            ended = f"the rates that kept and broke the bound are within {CLOSE_ENOUGH - 1:.0%}"
            break
        else:
            rate = (kept * broken) ** 0.5
    at_least = kept is not None and (broken is None or broken / kept > CLOSE_ENOUGH)
    saturated = saturation(last_broken, p99_ms) if last_broken is not None else []
    return Found(p99_ms, kept, at_least, ended, saturated, steps)


def judge(report: Report, rate: float, p99_ms: float) -> Step:
    """Whether a step kept the bound; what is within it is so although the generator's lateness counts too."""
    broke = _broke(report, p99_ms)
    return Step(
        rate=rate,
        served_per_s=report.answered_per_s,
        p50_ms=report.latency.p50_ms if report.latency else None,
        p99_ms=report.latency.p99_ms if report.latency else None,
        failed=report.failed,
        dropped=report.generator.dropped,
        hit_rate=report.hit_rate,
        generator_late=report.generator.fell_behind and broke is not None and not _server_broke(report, p99_ms),
        broke=broke,
    )


def _broke(report: Report, p99_ms: float) -> str | None:
    total = report.answered + report.failed
    if report.latency is None:
        return "nothing was answered"
    if report.failed > MAX_FAILED_SHARE * total:
        return f"{report.failed:,} of {total:,} requests failed"
    if report.generator.dropped:
        return f"{report.generator.dropped:,} requests were never sent, as too many were unanswered"
    if report.latency.p99_ms > p99_ms:
        return f"p99 {report.latency.p99_ms:.1f} ms"
    return None


def _server_broke(report: Report, p99_ms: float) -> bool:
    """Whether the bound is broken even from sent to answered, without the generator's lateness."""
    sent = report.latency_from_sent
    return sent is None or sent.p99_ms > p99_ms or report.generator.dropped > 0


def saturation(report: Report, p99_ms: float) -> list[str]:
    """What was at its limit in a step that broke the bound, by the figures of that step alone."""
    found = _servers(report.server, p99_ms) if report.server is not None else []
    own = report.server.mean(GENERATOR, "cpu_cores") if report.server is not None else None
    lag = report.generator.lag
    if report.generator.fell_behind and lag is not None:
        found.append(f"the generator itself: it sent p99 {lag.p99_ms:.1f} ms late")
    if own is not None and own >= BUSY_CORES:
        found.append(f"the generator itself: {own:.2f} of its one core")
    return found


def is_noisy(steps: Sequence[Step]) -> bool:
    """Whether a rate was served clearly worse than a higher one, as where others use the machine."""
    behind = [step for step in steps if step.served_per_s < KEPT_UP * step.rate and not step.generator_late]
    return any(
        other.rate > step.rate and other.served_per_s > step.served_per_s / KEPT_UP
        for step in behind
        for other in steps
    )


def _servers(server: ServerSeries, p99_ms: float) -> list[str]:
    found = []
    gateway = server.mean(GATEWAY, "cpu_cores")
    if gateway is not None and gateway >= BUSY_CORES:
        found.append(f"the gateway's CPU: {gateway:.2f} cores of the one that a worker can use")
    queue_ms, queue = server.mean(ENGINE, "queue_ms"), server.mean(ENGINE, "queue_texts")
    if queue_ms is not None and queue_ms >= QUEUE_SHARE * p99_ms:
        waiting = "" if queue is None else f", {queue:.0f} texts waiting"
        found.append(f"the engine's queue: {queue_ms:.1f} ms in it on average{waiting}")
    redis_ms, errors = server.mean(GATEWAY, "redis_lookup_ms"), server.mean(GATEWAY, "redis_errors_per_s")
    if redis_ms is not None and redis_ms >= REDIS_SHARE * p99_ms:
        found.append(f"Redis: {redis_ms:.1f} ms a look-up on average")
    if errors:
        found.append(f"Redis: {errors:.1f} failed look-ups a second")
    return found
