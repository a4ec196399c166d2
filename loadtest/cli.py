"""The `loadtest` command: options in, a table and perhaps files out."""

import asyncio
import signal
import sys
from typing import Any

import click

from common.gateway_url import base_url
from loadtest.addresses import gateway_and_key
from loadtest.client import RequestFailed
from loadtest.comparison import compare
from loadtest.display import show, show_found, wide_console
from loadtest.find_rate import Found, Interrupted, find_rate
from loadtest.open_loop import precise_loop
from loadtest.options import Options, load_options
from loadtest.page import rate as rate_page
from loadtest.page import run as run_page
from loadtest.plan import Plan, Planner, read_plan
from loadtest.progress import with_progress
from loadtest.report import Report, ReportError, Settings
from loadtest.runner import LoadTest
from loadtest.streams import WorkloadError
from loadtest.texts import TextsError
from loadtest.workload_file import write

INTERRUPTED = 128 + signal.SIGINT


@click.command("loadtest")
@load_options
def loadtest(**given: Any) -> None:
    """Send requests at a fixed rate, whether or not earlier ones were answered, and report what came back.

    Latency counts from the time a request was due, so a stall of the server shows in full. The exit code is 1
    when nothing was answered, and 130 after Ctrl-C, which ends the test early and reports what it had.

    --find-rate looks for the highest rate that keeps --p99-ms; --compare puts two reports on one page and sends
    nothing; --write-workload and --read-workload repeat a test exactly.
    """
    given["url"], given["api_key"] = gateway_and_key(given["url"], given["api_key"])
    options = Options(**given)
    try:
        options.check()
        options.url = base_url(options.url)
        options.engine_url = base_url(options.engine_url) if options.engine_url else ""
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        if options.compare is not None and options.html_file is not None:
            click.echo(compare(options.compare, options.html_file))
        elif options.find_rate:
            _search(options)
        else:
            _send(options)
    except WorkloadError as error:
        raise click.UsageError(str(error)) from None
    except Interrupted as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(INTERRUPTED)
    except (TextsError, ReportError, OSError, RequestFailed) as error:
        raise click.ClickException(str(error)) from None


def _send(options: Options) -> None:
    plan = _plan(options)
    if options.write_workload is not None and plan.workload is not None:
        write(options.write_workload, plan.workload)
    test = _test(options, plan)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        report = runner.run(with_progress(test))
    show(report, wide_console())
    if options.json_file is not None:
        options.json_file.write_bytes(report.to_json())
    if options.html_file is not None:
        options.html_file.write_text(run_page.render(report), encoding="utf-8")
    if report.interruption:
        sys.exit(INTERRUPTED)
    if report.answered == 0:
        sys.exit(1)


def _plan(options: Options) -> Plan:
    if options.read_workload is not None:
        return read_plan(options.read_workload)
    planner = _planner(options)
    plan = planner.plan(options.rate, options.warmup + options.seconds, options.speed)
    if options.write_workload is not None and plan.workload is None:
        raise WorkloadError("--write-workload: too many texts for one file; lower --rate, --seconds or --batch")
    return plan


def _planner(options: Options) -> Planner:
    planner = Planner(options.source, options.drawing, options.batches, options.pace, options.seed)
    if planner.tally:
        click.echo(planner.tally, err=True)
    return planner


def _test(options: Options, plan: Plan) -> LoadTest:
    described = plan.described
    seconds = options.seconds
    if options.read_workload is not None:
        seconds = max(described["seconds"] - options.warmup, 0.0)
    settings = Settings(
        url=options.url,
        model=options.model,
        texts=described["texts"],
        distinct_texts=plan.distinct_texts,
        workload=described["workload"],
        pace=described["pace"],
        rate=described["rate"],
        seconds=seconds,
        warmup=options.warmup,
        batch=described["batch"],
        seed=described["seed"],
        connections=options.connections,
        max_in_flight=options.max_in_flight,
        cache_control=options.cache_control,
        workload_sha256=plan.workload.sha256 if plan.workload is not None else None,
    )
    return LoadTest(
        settings,
        plan.arrivals,
        options.api_key,
        options.timeout_s,
        options.verify_share,
        options.fidelity,
        options.metrics_urls,
    )


def _search(options: Options) -> None:
    planner = _planner(options)
    reports: dict[float, Report] = {}

    async def measure(rate: float) -> Report:
        click.echo(f"{rate:,.1f} requests/s ...", err=True)
        plan = planner.plan(rate, options.warmup + options.seconds)
        test = _test(options, plan)
        report = await with_progress(test)
        if test.interrupted:
            raise Interrupted("interrupted before the first rate was measured")
        reports[rate] = report
        return report

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        found = runner.run(find_rate(measure, start=options.rate, p99_ms=options.p99_ms))
    best = reports[found.steps[-1].rate if found.rate is None else found.rate]
    show_found(found, wide_console())
    _write_found(options, found, best)
    if found.was_interrupted:
        sys.exit(INTERRUPTED)
    if found.rate is None:
        sys.exit(1)


def _write_found(options: Options, found: Found, best: Report) -> None:
    if options.json_file is not None:
        options.json_file.write_bytes(best.to_json(found=found))
    if options.html_file is not None:
        options.html_file.write_text(rate_page.render(found, best), encoding="utf-8")
