"""A load test with a line on the terminal that says how it goes."""

import asyncio

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.report import Report
from loadtest.runner import LoadTest

PERIOD_S = 0.25


async def with_progress(test: LoadTest) -> Report:
    """Run the test. Raises as `LoadTest.run`."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        watching = asyncio.create_task(_watch(test, progress))
        try:
            return await test.run()
        finally:
            watching.cancel()


async def _watch(test: LoadTest, progress: Progress) -> None:
    total_s = test.settings.warmup + test.settings.seconds
    task = progress.add_task("starting", total=total_s)
    started = test.loop.clock()
    while True:
        elapsed_s = test.loop.clock() - started
        progress.update(task, completed=min(elapsed_s, total_s), description=_state(test, elapsed_s))
        await asyncio.sleep(PERIOD_S)


def _state(test: LoadTest, elapsed_s: float) -> str:
    if test.interrupted or elapsed_s > test.settings.warmup + test.settings.seconds:
        return f"waiting for {test.loop.in_flight:,} answers, then verifying {len(test.sampler.kept):,}"
    collector = test.collector
    hits = "-" if collector.hit_rate is None else f"{collector.hit_rate:.1%}"
    phase = "warm-up, " if elapsed_s < test.settings.warmup else ""
    return (
        f"{phase}{test.loop.sent:,} sent, {test.loop.in_flight:,} in flight, hits {hits}, "
        f"{collector.errors.total():,} failed, {len(test.loop.dropped):,} dropped"
    )
