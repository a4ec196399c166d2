"""The report as one self-contained HTML page with plots drawn as inline SVG; no script, nothing fetched."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from common.credentials import shown_url
from loadtest.figures import Latencies, percentile
from loadtest.plot import Box, Plot, Scale, decades, svg
from loadtest.report import Point, Report
from loadtest.tiers import HITS, MISS

WIDTH, HEIGHT, MARGIN = 860, 260, 48
LEAST_LATENCY_S = 1e-5  # below that lies nothing that was measured
SHARES = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 100.0)
MAX_DOTS = 4000  # a page with every request of a long run would not open; the plot takes an even share
COLOURS = {"local": "#2a9d8f", "exact": "#457b9d", "semantic": "#8e5ea2", MISS: "#e76f51", "mixed": "#b08900"}
OTHER_COLOUR = "#777777"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 56rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid #ddd }
svg { width: 100%; height: auto }
text { font-size: 11px; fill: #555 } .warn { color: #b00020; font-weight: 600 }
"""


def render(report: Report, points: Sequence[Point]) -> str:
    """The whole page."""
    settings = report.settings
    title = f"Load test of {settings.model} at {shown_url(settings.url)}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>{escape(_summary(report))}</p>",
        *_warnings(report),
        "<h2>Texts by tier</h2>" + _tier_table(report),
        "<h2>Latency from the time a request was due</h2>",
        _latency_table({"all": report.latency, **report.latency_by_tier}),
        _legend(report.latency_by_tier),
        _scatter(points),
        "<h3>Share of requests slower than a latency</h3>" + _tails(points),
    ]
    if report.errors:
        parts.append("<h2>Failures</h2>" + _table(("kind", "requests"), report.errors.items()))
    if report.verification is not None:
        parts.append("<h2>False reuse</h2>" + _verification_table(report))
    return "\n".join(parts) + "\n</html>\n"


def _summary(report: Report) -> str:
    s = report.settings
    return (
        f"{s.workload} over {s.distinct_texts:,} distinct texts of {s.texts}, {s.batch} a request; requested "
        f"{s.rate:,.1f} requests/s ({s.pace}) for {s.seconds:g} s, answered "
        f"{report.answered_per_s:,.1f} requests/s, {report.texts_per_s:,.1f} texts/s, "
        f"{report.tokens_per_s:,.0f} tokens/s; seed {s.seed}."
    )


def _warnings(report: Report) -> Iterable[str]:
    if report.generator.fell_behind:
        yield "<p class=warn>The generator fell behind: part of these latencies is its own lateness.</p>"
    if report.generator.dropped:
        yield f"<p class=warn>{report.generator.dropped:,} arrivals were dropped by the generator.</p>"


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>"


def _tier_table(report: Report) -> str:
    total = sum(report.items.values()) or 1
    others = [tier for tier in report.items if tier not in (*HITS, MISS)]
    rows = [(tier, report.items.get(tier, 0)) for tier in (*HITS, MISS, *others)]
    rate = "unknown" if report.hit_rate is None else f"{report.hit_rate:.1%}"
    table = _table(("tier", "texts", "share"), ((tier, f"{n:,}", f"{n / total:.1%}") for tier, n in rows))
    return f"<p>Hit rate {rate}</p>{table}"


def _latency_table(rows: Mapping[str, Latencies | None]) -> str:
    cells = (
        (
            name,
            f"{row.count:,}",
            *(f"{value:.2f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)),
        )
        for name, row in rows.items()
        if row is not None
    )
    return _table(("requests", "count", "p50 ms", "p95 ms", "p99 ms", "max ms"), cells)


def _verification_table(report: Report) -> str:
    verification = report.verification
    assert verification is not None
    rows = (
        (tier, v.checked, v.same_bytes, v.below_fidelity, f"{v.lowest_cosine:.6f}")
        for tier, v in verification.tiers.items()
    )
    head = ("tier", "checked", "equal to the byte", f"below {verification.fidelity:g}", "lowest cosine")
    return _table(head, rows)


def _legend(tiers: Iterable[str]) -> str:
    return "<p>" + " ".join(f'<span style="color:{_colour(tier)}">● {escape(tier)}</span>' for tier in tiers) + "</p>"


def _colour(tier: str) -> str:
    return COLOURS.get(tier, OTHER_COLOUR)


def _scatter(points: Sequence[Point]) -> str:
    """Each request as a dot: when it was due, and its latency on a logarithmic scale."""
    if not points:
        return ""
    shown = points[:: max(1, math.ceil(len(points) / MAX_DOTS))]
    first, last = min(p.due_s for p in shown), max(p.due_s for p in shown)
    plot = _latency_plot(points, Scale(first, last if last > first else first + 1.0))
    for tier in sorted({p.tier for p in shown}):
        plot.dots(((p.due_s, p.latency_s) for p in shown if p.tier == tier), _colour(tier))
    plot.tick(last, f"{last:.0f} s", anchor="end")
    return svg(WIDTH, HEIGHT, plot.parts)


def _tails(points: Sequence[Point]) -> str:
    """For each tier the latency at 50 %, 90 %, 99 %, 99.9 % of its requests, as a line."""
    if not points:
        return ""
    plot = _latency_plot(points, Scale(0, len(SHARES) - 1))
    for place, share in enumerate(SHARES):
        plot.tick(place, f"{share:g} %")
    for tier, ordered in _by_tier(points).items():
        plot.line(((place, percentile(ordered, share)) for place, share in enumerate(SHARES)), _colour(tier))
    return svg(WIDTH, HEIGHT, plot.parts)


def _by_tier(points: Sequence[Point]) -> dict[str, list[float]]:
    return {tier: sorted(p.latency_s for p in points if p.tier == tier) for tier in sorted({p.tier for p in points})}


def _latency_plot(points: Sequence[Point], x: Scale) -> Plot:
    """An empty plot with latencies upwards, a grid line each decade."""
    latencies = [max(p.latency_s, LEAST_LATENCY_S) for p in points]
    y = decades(min(latencies), max(latencies))
    plot = Plot(Box(MARGIN, MARGIN, WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN), x, y)
    for decade in range(round(math.log10(y.low)), round(math.log10(y.high)) + 1):
        plot.grid_line(10.0**decade, f"{1000 * 10.0**decade:g} ms")
    return plot
