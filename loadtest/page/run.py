"""One load test as a page: what was asked, what came back, what the servers said meanwhile, on which machine."""

from collections.abc import Iterable

from common.credentials import shown_url
from loadtest.exposition import is_on_this_machine
from loadtest.figures import Latencies
from loadtest.histogram import Histogram
from loadtest.page import charts
from loadtest.page.charts import DASHED, DOTTED, Line
from loadtest.page.document import Html, Page, bars, columns, header, paragraph, table, tiles, warning
from loadtest.report import ALL, Report
from loadtest.server_watch import ENGINE, GATEWAY, GENERATOR
from loadtest.tiers import HITS, MISS
from loadtest.timeline import Timeline

NOT_THE_SERVERS = "not the server's"


def render(report: Report) -> str:
    """The whole page."""
    settings = report.settings
    page = Page(f"Load test of {settings.model} at {shown_url(settings.url)}")
    page.add(header(page.title, *summary(report)), *warnings(report), headline(report))
    sections(page, report)
    return page.html()


def sections(page: Page, report: Report) -> None:
    """Everything under the headline."""
    page.section("Latency", *_latency(page, report), intro="From the time a request was due until its answer was read.")
    page.section("Rates", *_rates(page, report))
    page.section("Cache", *_cache(page, report))
    if report.server is not None:
        page.section("Gateway and engine", *_servers(page, report), intro="From their /metrics during the run.")
    if report.errors:
        page.section(f"Failed requests: {report.failed:,}", bars(list(report.errors.items())))
    if report.verification is not None:
        page.section("Were the hits right?", *_verification(page, report))
    page.section("Settings and machine", settings_table(report))


def summary(report: Report) -> Iterable[str]:
    """What was sent, in words."""
    s = report.settings
    yield f"{s.workload} over {s.distinct_texts:,} distinct texts of {s.texts}, {s.batch} a request"
    yield f"{s.rate:,.4g} requests/s ({s.pace}) for {s.seconds:g} s after {s.warmup:g} s of warm-up; {report.started}"


def warnings(report: Report) -> Iterable[Html]:
    """What must be known before a figure is read."""
    generator = report.generator
    if report.interruption:
        yield warning(report.interruption)
    if generator.fell_behind and generator.lag is not None:
        yield warning(
            f"The generator fell behind: it sent requests up to {generator.lag.p99_ms:,.1f} ms late (p99). Part of "
            "these latencies is its own lateness; they are not the server's. Lower --rate, or give it cores of its own."
        )
    if generator.dropped:
        yield warning(
            f"{generator.dropped:,} requests were never sent, because {report.settings.max_in_flight:,} were "
            "unanswered. The server does not keep up, and the latencies leave these out."
        )


def headline(report: Report) -> Html:
    """The figures that are quoted."""
    latency = report.latency
    total = report.answered + report.failed
    small = "from due to answered" if report.is_the_servers else NOT_THE_SERVERS
    cells = [
        ("served", f"{report.answered_per_s:,.1f}/s", f"{report.texts_per_s:,.1f} texts/s"),
        ("p50", milliseconds(latency.p50_ms) if latency else "-", small),
        ("p99", milliseconds(latency.p99_ms) if latency else "-", small),
        ("from a cache", share(report.hit_rate), f"of {sum(report.items.values()):,} texts"),
        ("failed", share(report.failed / total if total else None), f"{report.failed:,} of {total:,} requests"),
    ]
    if report.verification is not None:
        checked = report.verification.checked
        cells.append(("false reuse", share(report.verification.false_reuse_rate), f"{checked:,} hits checked"))
    return tiles(cells)


def _latency(page: Page, report: Report) -> Iterable[Html]:
    histograms = read_histograms(report)
    tiers = [tier for tier in histograms if tier != ALL]
    lines = [(tier, histograms[tier], charts.colour_of(tier), charts.SOLID) for tier in tiers]
    if len(tiers) != 1 and ALL in histograms:
        lines.insert(0, (ALL, histograms[ALL], "fg", DASHED))
    if report.latency is not None:
        yield page.chart(charts.percentiles(lines, "Latency percentiles by tier"), "Percentiles by tier")
    yield latency_table({"all": report.latency, **report.latency_by_tier}, {"all, from sent": report.latency_from_sent})
    timeline = time_line(report)
    rows = timeline.rows
    over = [
        Line("slowest", [row.max_ms for row in rows], "bad", DOTTED),
        Line("p99", [row.p99_ms for row in rows], "semantic"),
        Line("p50", [row.p50_ms for row in rows], "local"),
        Line("generator late by, at most", [row.lag_ms for row in rows], "other", DASHED),
    ]
    chart = charts.over_time(
        charts.labels(timeline), over, "Latency over time", unit="ms", log=True, warm=warm_rows(report),
        note=f"By the time a request was due, in stretches of {timeline.width_s:g} s. Logarithmic axis.",
    )  # fmt: skip
    yield page.chart(chart, "Over time")


def _rates(page: Page, report: Report) -> Iterable[Html]:
    timeline, width = time_line(report), report.timeline.width_s
    lines = [
        Line("offered", [row.offered / width for row in timeline.rows], "other", DASHED),
        Line("served", [row.served / width for row in timeline.rows], "good"),
    ]
    if report.failed or any(row.failed for row in timeline.rows):
        lines.append(Line("failed", [row.failed / width for row in timeline.rows], "bad"))
    if report.generator.dropped:
        lines.append(Line("never sent", [row.dropped / width for row in timeline.rows], "miss", DOTTED))
    note = f"Requests a second, in stretches of {width:g} s; the first and the last may be cut short."
    chart = charts.over_time(
        charts.labels(timeline), lines, "Offered and served rate", unit="per_s", warm=warm_rows(report), note=note
    )
    yield page.chart(chart)


def _cache(page: Page, report: Report) -> Iterable[Html]:
    timeline = time_line(report)
    counts = charts.tier_counts(timeline)
    if counts:
        yield page.chart(
            charts.stacked(charts.labels(timeline), counts, "Share of texts by tier over time"),
            "Texts by tier over time",
        )
    yield columns(tier_table(report), kind_table(report) if report.kinds else Html(""))


def _servers(page: Page, report: Report) -> Iterable[Html]:
    server = report.server
    assert server is not None
    at = [charts.time_label(round(at - report.settings.warmup)) for at in server.at_s]

    def chart(title: str, unit: str, lines: list[tuple[str, str, str, str]], note: str = "") -> Html | None:
        known = [
            Line(name, server.series[where][what], colour)
            for name, where, what, colour in lines
            if what in server.series.get(where, {})
        ]
        return page.chart(charts.over_time(at, known, title, unit=unit, note=note), title) if known else None

    found = [
        chart("Texts waiting in the engine's queue", "count", [("waiting", ENGINE, "queue_texts", "miss")]),
        chart("Texts in a batch", "count", [("mean of the second", ENGINE, "batch_texts", "exact")]),
        chart(
            "Where time goes", "ms",
            [
                ("call to the engine", GATEWAY, "engine_call_ms", "miss"),
                ("engine's queue", ENGINE, "queue_ms", "mixed"),
                ("run of a batch", ENGINE, "run_ms", "exact"),
                ("look-up in Redis", GATEWAY, "redis_lookup_ms", "bad"),
            ],
        ),
        chart(
            "CPU cores used", "count",
            [
                ("gateway", GATEWAY, "cpu_cores", "local"),
                ("engine", ENGINE, "cpu_cores", "exact"),
                ("this generator", GENERATOR, "cpu_cores", "other"),
            ],
        ),
    ]  # fmt: skip
    yield columns(*(part for part in found if part is not None))
    for where, why in server.missing.items():
        yield paragraph(f"Not read from the {where}: {why}.", "note")


def _verification(page: Page, report: Report) -> Iterable[Html]:
    verification = report.verification
    assert verification is not None
    rate = verification.false_reuse_rate
    shown = "nothing could be checked" if rate is None else f"{rate:.2%} are below {verification.fidelity:g}"
    yield paragraph(f"{verification.checked:,} served vectors were computed again: {shown}.")
    chart = charts.cosines(verification, "Cosine of served vectors to fresh ones")
    if chart is not None:
        yield page.chart(chart, "Cosine to the vector computed afresh")
    rows = (
        (tier, f"{v.checked:,}", f"{v.same_bytes:,}", f"{v.below_fidelity:,}", f"{v.lowest_cosine:.4f}")
        for tier, v in verification.tiers.items()
    )
    yield table(("tier", "checked", "equal to the byte", f"below {verification.fidelity:g}", "lowest cosine"), rows)
    if verification.unchecked:
        yield paragraph(f"{verification.unchecked:,} could not be computed again.", "note")


def latency_table(rows: dict[str, Latencies | None], more: dict[str, Latencies | None] | None = None) -> Html:
    """Percentiles in milliseconds."""
    cells = [
        (name, f"{row.count:,}", *map(milliseconds, (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)))
        for name, row in {**rows, **(more or {})}.items()
        if row is not None
    ]
    return table(("requests", "count", "p50", "p95", "p99", "slowest"), cells)


def tier_table(report: Report) -> Html:
    """Texts by tier."""
    total = sum(report.items.values()) or 1
    others = [tier for tier in report.items if tier not in (*HITS, MISS)]
    counts = ((tier, report.items.get(tier, 0)) for tier in (*HITS, MISS, *others))
    return table(("tier", "texts", "share"), ((tier, f"{n:,}", f"{n / total:.1%}") for tier, n in counts))


def kind_table(report: Report) -> Html:
    """What each kind of text was answered from."""
    seen = {tier for by_tier in report.kinds.values() for tier in by_tier}
    tiers = [tier for tier in (*HITS, MISS) if tier in seen] + sorted(seen - {*HITS, MISS})
    rows = []
    for kind, by_tier in report.kinds.items():
        total = sum(by_tier.values())
        rows.append((kind, f"{total:,}", *(f"{by_tier.get(tier, 0) / total:.1%}" for tier in tiers)))
    return table(("kind of text", "texts", *tiers), rows)


def settings_table(report: Report) -> Html:
    """What was asked, and where it ran."""
    s, machine = report.settings, report.machine
    rows = [
        ("server", shown_url(s.url)),
        ("model", s.model),
        ("texts", f"{s.texts}, {s.distinct_texts:,} distinct"),
        ("workload", f"{s.workload}; seed {s.seed}"),
        ("workload SHA-256", s.workload_sha256 or "drawn as it was sent, not hashed"),
        ("arrivals", f"{s.rate:,.4g}/s, {s.pace}, {s.seconds:g} s after {s.warmup:g} s of warm-up"),
        ("texts a request", s.batch),
        ("bounds", f"{s.connections:,} connections, {s.max_in_flight:,} unanswered requests"),
        ("x-cache-control", s.cache_control or "not sent"),
        ("percentiles", "nearest rank, HdrHistogram with three significant digits: at most 0.1 % high"),
    ]
    if machine is not None:
        where = "generator and server" if is_on_this_machine(s.url) else "generator (the server's is not known)"
        dot = "with INT8 dot products (VNNI or the like)" if machine.int8_dot_products else "without VNNI"
        rows += [
            ("machine of " + where, f"{machine.cpu}, {machine.cores} cores usable, {dot}"),
            ("load before", f"{machine.load_before:g} runnable processes"),
            (
                "software there",
                f"Python {machine.python}, " + ", ".join(f"{n} {v}" for n, v in machine.packages.items()),
            ),
        ]
    return table(("", ""), rows, "words")


def read_histograms(report: Report) -> dict[str, Histogram]:
    """The histograms by tier, those of all requests under `ALL`; empty ones are left out."""
    read = {tier: Histogram.decode(text) for tier, text in report.histograms.items()}
    return {tier: histogram for tier, histogram in read.items() if histogram.count}


def time_line(report: Report) -> Timeline:
    """The part of the time line that plots show."""
    return charts.shown(report.timeline, report.settings.warmup + report.settings.seconds)


def warm_rows(report: Report) -> int:
    """How many rows of the time line are warm-up."""
    return round(report.timeline.warmup_s / report.timeline.width_s)


def milliseconds(value: float) -> str:
    """A latency with its unit."""
    return f"{value / 1000:,.2f} s" if value >= 10_000 else f"{value:,.2f} ms" if value < 100 else f"{value:,.0f} ms"


def share(value: float | None) -> str:
    """A share as per cent; unknown where there is none."""
    return "unknown" if value is None else f"{value:.1%}"
