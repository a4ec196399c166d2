"""Plots as options of Apache ECharts: lines over time, shares, percentiles, distributions, curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.histogram import Histogram
from loadtest.page.document import Chart
from loadtest.tiers import HITS, MISS
from loadtest.timeline import Timeline
from loadtest.verify import COSINE_BINS, LOWEST_COSINE, Verification

TIER_COLOURS = {"local": "local", "exact": "exact", "semantic": "semantic", MISS: "miss", "mixed": "mixed"}
LEAST_MS = 0.01  # below that lies nothing that was measured, and a log axis needs a lower end
TOP_LABEL = {"top": 28}  # room for the name of a vertical line
SOLID, DASHED, DOTTED, AREA = "solid", "dashed", "dotted", "area"

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a plot: its name, colour and dashes."""

    name: str
    values: Values
    colour: str
    how: str = SOLID


def colour_of(tier: str) -> str:
    """The colour's name in page.css."""
    return TIER_COLOURS.get(tier, "other")


def over_time(
    at: Sequence[str], lines: Sequence[Line], says: str, *, unit: str, log: bool = False, warm: int = 0, note: str = ""
) -> Chart:
    """Lines over labelled stretches of time; the first `warm` of them are shaded."""
    series = [_line(line, log) for line in lines]
    if warm and series and at:
        series[0]["markArea"] = {
            "silent": True,
            "itemStyle": {"color": "$shade"},
            "data": [[{"xAxis": at[0]}, {"xAxis": at[min(warm, len(at) - 1)]}]],
        }
        note = f"{note} The shaded beginning is the warm-up.".strip()
    option = {
        "xAxis": {"type": "category", "data": list(at), "boundaryGap": False},
        "yAxis": _value_axis(log),
        "series": series,
    }
    return Chart(option, says, {"y": unit}, _keys(lines), note)


def stacked(at: Sequence[str], counts: Mapping[str, Sequence[int]], says: str, note: str = "") -> Chart:
    """Shares of each stretch of time as stacked bars, most valuable tier lowest."""
    totals = [sum(values) for values in zip(*counts.values(), strict=True)]
    series = [
        {
            "name": name,
            "type": "bar",
            "stack": "all",
            "barCategoryGap": "0%",
            "itemStyle": {"color": f"${colour_of(name)}"},
            "data": [_share(value, total) for value, total in zip(values, totals, strict=True)],
        }
        for name, values in counts.items()
    ]
    option = {
        "xAxis": {"type": "category", "data": list(at)},
        "yAxis": {"type": "value", "min": 0, "max": 1},
        "series": series,
    }
    return Chart(option, says, {"y": "share"}, [(name, colour_of(name), AREA) for name in counts], note)


def percentiles(histograms: Sequence[tuple[str, Histogram, str, str]], says: str) -> Chart:
    """Latency against the share of requests that were faster: name, histogram, colour and dashes of each line.

    The places are spaced as by nines, so that the slowest requests have room; a percentile that no request stands
    for is left out.
    """
    places = ["0", "25", "50", "75", "90", "95", "99", "99.9", "99.99", "100"]
    lines = []
    for name, histogram, colour, how in histograms:
        found = {f"{percent:g}": max(1000 * seconds, LEAST_MS) for percent, seconds in histogram.shares_below()}
        lines.append(Line(name, [found.get(place) for place in places], colour, how))
    option = {
        "xAxis": {"type": "category", "data": [f"{place} %" for place in places], "boundaryGap": False},
        "yAxis": _value_axis(log=True),
        "series": [{**_line(line, log=True), "connectNulls": True} for line in lines],
    }
    note = "Share of requests that took at most so long; 100 % is the slowest one. Logarithmic axis."
    return Chart(option, says, {"y": "ms"}, _keys(lines), note, height=320)


def cosines(verification: Verification, says: str) -> Chart | None:
    """Cosines of served vectors to fresh ones, those equal to the byte left out; None where there is no other."""
    counts = [0] * COSINE_BINS
    for verdict in verification.tiers.values():
        counts = [a + b for a, b in zip(counts, verdict.cosine_counts or counts, strict=True)]
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return None
    width = (1 - LOWEST_COSINE) / COSINE_BINS
    fidelity = verification.fidelity
    first = max(min(used[0], int((fidelity - LOWEST_COSINE) / width)) - 2, 0)
    edges = [round(LOWEST_COSINE + place * width, 5) for place in range(first, COSINE_BINS + 1)]
    option = {
        "xAxis": {"type": "value", "min": round(LOWEST_COSINE + first * width, 4), "max": 1},
        "yAxis": {"type": "value", "minInterval": 1},
        "grid": TOP_LABEL,
        "series": [
            {
                "name": "served vectors",
                "type": "line",
                "step": "end",
                "showSymbol": False,
                "lineStyle": {"color": "$semantic", "width": 1},
                "itemStyle": {"color": "$semantic"},
                "areaStyle": {"color": "$semantic", "opacity": 0.75},
                "data": [[x, n] for x, n in zip(edges, [*counts[first:], 0], strict=True)],
                "markLine": _mark("xAxis", fidelity, f"fidelity {fidelity:g}"),
            }
        ],
    }
    note = "What lies left of the line is a false reuse. Vectors that were equal to the byte are left out."
    keys = [("served vectors, by cosine to the vector computed afresh", "semantic", AREA), ("fidelity", "bad", DASHED)]
    return Chart(option, says, {"x": "count", "y": "count"}, keys, note)


def curve(
    lines: Sequence[tuple[Line, Sequence[float]]],
    says: str,
    *,
    units: tuple[str, str],
    bound: tuple[float, str] | None = None,
    log: tuple[bool, bool] = (False, True),
    mark_x: tuple[float, str] | None = None,
    note: str = "",
    symbols: bool = True,
) -> Chart:
    """Lines through points (x, y); a bound as a horizontal line, a place as a vertical one; `log` for x and y."""
    series = []
    for line, xs in lines:
        data = [[x, y] for x, y in zip(xs, line.values, strict=True) if y is not None and (y > 0 or not log[1])]
        series.append({**_line(line, log[1]), "data": data, "showSymbol": symbols, "symbolSize": 7})
    marks = []
    if bound is not None:
        marks.append(_mark("yAxis", *bound)["data"][0])
    if mark_x is not None:
        marks.append(_mark("xAxis", *mark_x)["data"][0])
    if marks and series:
        series[0]["markLine"] = {**_mark("yAxis", 0, ""), "data": marks}
    option = {"xAxis": _value_axis(log[0]), "yAxis": _value_axis(log[1]), "series": series, "grid": TOP_LABEL}
    return Chart(option, says, {"x": units[0], "y": units[1]}, _keys([line for line, _ in lines]), note, height=320)


def shown(timeline: Timeline, planned_s: float) -> Timeline:
    """The time line without the rows behind `planned_s`, where those hold less than 1 % of the answers."""
    planned = max(math.ceil(round(planned_s / timeline.width_s, 6)), 1)
    ended = [row.served + row.failed for row in timeline.rows]
    return replace(timeline, rows=timeline.rows[:planned]) if sum(ended[planned:]) < 0.01 * sum(ended) else timeline


def labels(timeline: Timeline) -> list[str]:
    """The beginning of each row, as time from the first request that counts."""
    return [time_label(place * timeline.width_s - timeline.warmup_s) for place in range(len(timeline.rows))]


def time_label(seconds: float) -> str:
    """A time on an axis."""
    if abs(seconds) >= 600:
        return f"{seconds / 60:.4g} min"
    return f"{round(seconds, 1 if abs(seconds) >= 1 else 2):g} s"


def tier_counts(timeline: Timeline) -> dict[str, list[int]]:
    """Texts by tier in each row, the hits first."""
    seen = {tier for row in timeline.rows for tier in row.tiers}
    ordered = [tier for tier in (*HITS, MISS) if tier in seen] + sorted(seen - {*HITS, MISS})
    return {tier: [row.tiers.get(tier, 0) for row in timeline.rows] for tier in ordered}


def _line(line: Line, log: bool) -> dict[str, Any]:
    values = [None if value is None else max(value, LEAST_MS) if log else value for value in line.values]
    return {
        "name": line.name,
        "type": "line",
        "showSymbol": sum(value is not None for value in values) == 1,
        "connectNulls": False,
        "lineStyle": {"type": line.how, "width": 2, "color": f"${line.colour}"},
        "itemStyle": {"color": f"${line.colour}"},
        "data": values,
    }


def _value_axis(log: bool) -> dict[str, Any]:
    return {"type": "log", "logBase": 10} if log else {"type": "value", "min": 0}


def _mark(axis: str, at: float, label: str) -> dict[str, Any]:
    place = "insideEndTop" if axis == "yAxis" else "end"  # above the plot; inside it would stand upright
    return {
        "silent": True,
        "symbol": "none",
        "lineStyle": {"color": "$bad", "type": "dashed", "width": 1.5},
        "data": [{axis: at, "label": {"formatter": label, "position": place, "color": "$bad"}}],
    }


def _keys(lines: Iterable[Line]) -> list[tuple[str, str, str]]:
    return [(line.name, line.colour, line.how) for line in lines]


def _share(value: int, total: int) -> float | None:
    return round(value / total, 4) if total else None
