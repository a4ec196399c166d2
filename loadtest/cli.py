"""The `loadtest` command: options in, a table and perhaps a file out."""

import asyncio
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from common.gateway_url import base_url
from common.texts import Format
from common.texts.options import bad_lines_option, field_option, format_option
from loadtest.client import RequestFailed
from loadtest.display import show, wide_console
from loadtest.html import render
from loadtest.open_loop import precise_loop
from loadtest.report import Report, Settings
from loadtest.runner import LoadTest
from loadtest.texts import DEFAULT_FILE, TextsError, read_lines
from loadtest.workload import Law, Pace, arrivals

PROGRESS_PERIOD_S = 0.25

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command("loadtest")
@click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    help="The gateway, or any server of OpenAI's contract.",
)
@click.option("--rate", default=200.0, show_default=True, type=POSITIVE, help="Requests a second.")
@click.option("--seconds", default=30.0, show_default=True, type=POSITIVE, help="How long to measure.")
@click.option(
    "--warmup",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds sent before, not counted.",
)
@click.option(
    "--texts",
    "texts_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="One text a line, or JSON Lines, CSV, TSV, Parquet; plain or gzip; - is standard input. By default a small "
    "file of our own.",
)
@format_option()
@field_option
@bad_lines_option
@click.option(
    "--workload",
    default=Law.REPLAY,
    show_default=True,
    type=click.Choice(Law, case_sensitive=False),
    help="How texts are drawn: the file in order, by rank, or evenly.",
)
@click.option("--exponent", default=1.0, show_default=True, type=click.FloatRange(min=0), help="Of the Zipf law.")
@click.option(
    "--pace",
    default=Pace.POISSON,
    show_default=True,
    type=click.Choice(Pace, case_sensitive=False),
    help="How arrivals are spaced.",
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1, 2048), help="Texts a request.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same arrivals and texts.")
@click.option("--model", default="", help="Model name; the first of /v1/models by default.")
@click.option("--api-key", help="Sent as a bearer token.")
@click.option(
    "--connections",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="Most connections at once.",
)
@click.option(
    "--max-in-flight",
    default=2000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Arrivals beyond this many unanswered requests are dropped and counted.",
)
@click.option(
    "--timeout",
    "timeout_s",
    default=30.0,
    show_default=True,
    type=POSITIVE,
    help="Seconds until a request counts as failed.",
)
@click.option("--cache-control", help="Sent as x-cache-control with each request, such as no-store.")
@click.option(
    "--verify",
    "verify_share",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of cached answers to compute again and compare, after the load.",
)
@click.option(
    "--fidelity",
    default=0.92,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Cosine below which a served vector is a false reuse.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the report as JSON.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the report as one HTML page with plots.",
)
def loadtest(
    *,
    texts_file: Path | None,
    format: Format | None,
    field: str,
    bad_lines_file: Path | None,
    workload: Law,
    exponent: float,
    pace: Pace,
    batch: int,
    rate: float,
    seconds: float,
    warmup: float,
    seed: int,
    url: str,
    model: str,
    connections: int,
    max_in_flight: int,
    cache_control: str | None,
    api_key: str | None,
    timeout_s: float,
    verify_share: float,
    fidelity: float,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Send requests at a fixed rate, whether or not earlier ones were answered, and report what came back.

    Latency counts from the time a request was due, so a stall of the server shows in full. The exit code is 1
    when nothing was answered.
    """
    try:
        url = base_url(url)
        lines = read_lines(texts_file, format=format, field=field, bad_lines_file=bad_lines_file)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except TextsError as error:
        raise click.ClickException(str(error)) from None
    texts = lines.texts
    if texts_file is not None:
        click.echo(f"{texts_file}: {lines.tally}{' (the rest is not read)' if lines.was_cut else ''}", err=True)
    settings = Settings(
        url=url,
        model=model,
        texts=str(texts_file or DEFAULT_FILE),
        distinct_texts=len(set(texts)),
        workload=f"zipf {exponent:g}" if workload is Law.ZIPF else workload.value,
        pace=pace.value,
        rate=rate,
        seconds=seconds,
        warmup=warmup,
        batch=batch,
        seed=seed,
        connections=connections,
        max_in_flight=max_in_flight,
        cache_control=cache_control,
    )
    planned = arrivals(
        texts,
        rate=rate,
        seconds=warmup + seconds,
        batch=batch,
        law=workload,
        exponent=exponent,
        pace=pace,
        seed=seed,
    )
    test = LoadTest(settings, planned, api_key, timeout_s, verify_share, fidelity)
    report = _measure(test)
    show(report, wide_console())
    if json_file is not None:
        json_file.write_bytes(report.to_json())
    if html_file is not None:
        html_file.write_text(render(report, test.collector.points), encoding="utf-8")
    if report.answered == 0:
        sys.exit(1)


def _measure(test: LoadTest) -> Report:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        try:
            return runner.run(_with_progress(test))
        except RequestFailed as error:
            raise click.ClickException(str(error)) from None


async def _with_progress(test: LoadTest) -> Report:
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
        await asyncio.sleep(PROGRESS_PERIOD_S)


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
