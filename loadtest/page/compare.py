"""Two load tests on one page: what differs between them first, then both in each plot, then each alone."""

from collections.abc import Callable, Iterable

from common.credentials import shown_urls_in
from loadtest.page import charts
from loadtest.page.charts import DASHED, SOLID, Line
from loadtest.page.document import Html, Page, columns, header, paragraph, table, warning
from loadtest.page.run import (
    headline,
    kind_table,
    latency_table,
    milliseconds,
    read_histograms,
    settings_table,
    share,
    tier_table,
    time_line,
)
from loadtest.report import ALL, Report, hit_share
from loadtest.timeline import Timeline

Runs = tuple[tuple[str, Report], tuple[str, Report]]
COLOURS = ("accent", "miss")


def render(runs: Runs) -> str:
    """The whole page; each run has a name, such as its file's."""
    one, other = (name for name, _ in runs)
    page = Page(f"{one} and {other}")
    page.add(header(f"{one} and {other}", "Two load tests side by side"), *_warnings(runs))
    page.section("What differs", _figures(runs))
    page.section("Latency", *_latency(page, runs), intro="From the time a request was due until its answer was read.")
    page.section("Rates and hits over time", *_over_time(page, runs))
    page.section("Settings that differ", _settings(runs))
    for name, report in runs:
        page.section(
            name,
            headline(report),
            columns(latency_table({"all": report.latency, **report.latency_by_tier}), tier_table(report)),
            kind_table(report) if report.kinds else Html(""),
            settings_table(report),
        )
    return page.html()


def _warnings(runs: Runs) -> Iterable[Html]:
    (_, first), (_, second) = runs
    for name, report in runs:
        if report.interruption:
            yield warning(f"{name}: {report.interruption}")
        if not report.is_the_servers:
            yield warning(
                f"{name}: the generator was late or dropped requests. Its latencies are not the server's, and "
                "comparing them shows nothing of it."
            )
    one, other = first.settings.workload_sha256, second.settings.workload_sha256
    if one is None or other is None:
        yield paragraph(
            "Whether both sent the same requests is not known: a workload was drawn as it was sent.", "note"
        )
    elif one == other and (first.interruption or second.interruption):
        yield paragraph(f"Both began to send the same texts at the same times (SHA-256 {one[:16]}…).", "note")
    elif one == other:
        yield paragraph(f"Both sent the same texts at the same times (SHA-256 {one[:16]}…).", "note")
    else:
        yield warning("The two runs did not send the same requests: differences may be those of the workload.")


def _figures(runs: Runs) -> Html:
    (one, first), (other, second) = runs
    rows = [
        _row("served, requests/s", first.answered_per_s, second.answered_per_s, lambda v: f"{v:,.1f}"),
        _row("served, texts/s", first.texts_per_s, second.texts_per_s, lambda v: f"{v:,.1f}"),
    ]
    for name, attribute in (("p50", "p50_ms"), ("p95", "p95_ms"), ("p99", "p99_ms"), ("slowest", "max_ms")):
        values = [None if run.latency is None else getattr(run.latency, attribute) for _, run in runs]
        rows.append(_row(name, values[0], values[1], milliseconds))
    rows.append(_row("from a cache", first.hit_rate, second.hit_rate, share))
    failed = [run.failed / max(run.answered + run.failed, 1) for _, run in runs]
    rows.append(_row("failed", failed[0], failed[1], share))
    return table(("", one, other, f"{other} / {one}"), rows)


def _row(name: str, one: float | None, other: float | None, shown: Callable[[float], str]) -> tuple[str, ...]:
    ratio = f"{other / one:.2f}" if one and other is not None else "-"
    return (name, *("-" if value is None else shown(value) for value in (one, other)), ratio)


def _latency(page: Page, runs: Runs) -> Iterable[Html]:
    lines = []
    for (name, report), colour in zip(runs, COLOURS, strict=True):
        histograms = read_histograms(report)
        if ALL in histograms:
            lines.append((f"{name}, all", histograms[ALL], colour, SOLID))
    if lines:
        yield page.chart(charts.percentiles(lines, "Latency percentiles of both runs"), "Percentiles, all requests")
    tiers = []
    for (name, report), how in zip(runs, (SOLID, DASHED), strict=True):
        tiers += [
            (f"{name}, {tier}", histogram, charts.colour_of(tier), how)
            for tier, histogram in read_histograms(report).items()
            if tier != ALL
        ]
    if tiers:
        yield page.chart(charts.percentiles(tiers, "Latency percentiles of both runs by tier"), "Percentiles by tier")


def _over_time(page: Page, runs: Runs) -> Iterable[Html]:
    timelines = [time_line(report) for _, report in runs]
    longest = max(timelines, key=lambda timeline: len(timeline.rows))
    if len({(timeline.width_s, timeline.warmup_s) for timeline in timelines}) > 1:
        yield paragraph(
            "The runs had another length or warm-up, so their courses over time are not in one plot.",
            "note",
        )
        return
    at = charts.labels(longest)

    def chart(title: str, unit: str, read: Callable[[Timeline], list[float | None]], log: bool = False) -> Html:
        lines = [
            Line(name, _padded(read(timeline), len(at)), colour)
            for (name, _), timeline, colour in zip(runs, timelines, COLOURS, strict=True)
        ]
        return page.chart(charts.over_time(at, lines, title, unit=unit, log=log), title)

    yield chart("p99 over time", "ms", lambda t: [row.p99_ms for row in t.rows], log=True)
    yield columns(
        chart("Served rate", "per_s", lambda t: [row.served / t.width_s for row in t.rows]),
        chart("Share of texts from a cache", "share", _hit_shares),
    )


def _hit_shares(timeline: Timeline) -> list[float | None]:
    return [hit_share(row.tiers) for row in timeline.rows]


def _padded(values: list[float | None], length: int) -> list[float | None]:
    return values + [None] * (length - len(values))


def _settings(runs: Runs) -> Html:
    (one, first), (other, second) = runs
    rows = []
    for name in first.settings.__dataclass_fields__:
        left, right = getattr(first.settings, name), getattr(second.settings, name)
        if left != right:
            rows.append((name.replace("_", " "), shown_urls_in(str(left)), shown_urls_in(str(right))))
    if first.machine != second.machine:
        rows.append(("machine", _machine(first), _machine(second)))
    return table(("", one, other), rows, "words") if rows else paragraph("None.")


def _machine(report: Report) -> str:
    machine = report.machine
    return (
        "unknown" if machine is None else f"{machine.cpu}, {machine.cores} cores, load {machine.load_before:g} before"
    )
