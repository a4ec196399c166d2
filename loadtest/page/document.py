"""One HTML file: a head with a policy that lets nothing be fetched, then sections of tiles, tables and plots.

    page = Page("Load test of m")
    page.add(heading("Latency"), table(("tier", "p99 ms"), rows), page.chart(spec))
    text = page.html()

Whatever comes from outside (names, URLs, errors) passes through `escape`, or through JSON in which no `<` is left.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).parent
ECHARTS = "echarts.common.min.js"
ECHARTS_VERSION = "6.1.0"
ECHARTS_SHA256 = "61f13280aba3161f77fc801bf5f9c786f55f10432153a0683fc5cc0700b013d5"


@dataclass(frozen=True, slots=True)
class Html:
    """Markup that is finished: everything from outside in it is escaped."""

    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot: ECharts options whose colours are `$name` for the variable `--name` of page.css, and the axes' units.

    `says` describes it to who cannot see it; `keys` are its legend: name, colour, and how it is drawn.
    """

    option: dict[str, Any]
    says: str
    units: dict[str, str] = field(default_factory=dict)
    keys: Sequence[tuple[str, str, str]] = ()
    note: str = ""
    height: int = 280


@dataclass
class Page:
    """A page that is being put together."""

    title: str
    parts: list[str] = field(default_factory=list)
    _charts: list[dict[str, Any]] = field(default_factory=list)

    def add(self, *parts: Html) -> None:
        """Append to the body."""
        self.parts += [part.text for part in parts]

    def section(self, title: str, *parts: Html, intro: str = "") -> None:
        """Append a section with a heading."""
        words = f"<p>{escape(intro)}</p>" if intro else ""
        inner = "\n".join(part.text for part in parts)
        self.parts.append(f"<section><h2>{escape(title)}</h2>{words}{inner}</section>")

    def chart(self, chart: Chart, title: str = "") -> Html:
        """A place for the plot, which page.js fills."""
        place = len(self._charts)
        self._charts.append({"option": chart.option, "units": chart.units})
        keys = "".join(
            f'<span class="key {escape(how)}" style="--c:var(--{escape(colour)})">{escape(name)}</span>'
            for name, colour, how in chart.keys
        )
        heading = f"<h3>{escape(title)}</h3>" if title else ""
        note = f"<p class=note>{escape(chart.note)}</p>" if chart.note else ""
        legend = f"<div class=keys>{keys}</div>" if keys else ""
        return Html(
            f'<figure>{heading}{legend}<div class=chart data-chart="{place}" style="height:{chart.height}px" '
            f'role=img aria-label="{escape(chart.says)}"></div>{note}</figure>'
        )

    def html(self) -> str:
        """The whole file."""
        scripts = [_file(ECHARTS), _file("page.js")] if self._charts else []
        data = orjson.dumps(self._charts).decode().replace("<", "\\u003c")
        policy = "; ".join(
            (
                "default-src 'none'",
                "style-src 'unsafe-inline'",
                "script-src " + (" ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"),
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            )
        )
        return "\n".join(
            (
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                '<link rel="icon" href="data:,">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{_file('page.css')}</style></head><body><main>",
                *self.parts,
                "</main>",
                "<noscript><p>The plots need JavaScript; all figures are in the tables too.</p></noscript>",
                f'<script type="application/json" id="charts">{data}</script>' if scripts else "",
                *(f"<script>{script}</script>" for script in scripts),
                "</body></html>\n",
            )
        )


def header(title: str, *lines: str) -> Html:
    """The page's first heading with lines under it."""
    return Html(f"<header><h1>{escape(title)}</h1>{''.join(f'<p>{escape(line)}</p>' for line in lines)}</header>")


def warning(text: str) -> Html:
    """A banner that cannot be overlooked."""
    return Html(f'<p class="warn" role="alert">{escape(text)}</p>')


def paragraph(text: str, kind: str = "") -> Html:
    """Running text."""
    return Html(f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def bullets(lines: Iterable[str]) -> Html:
    """A list."""
    return Html("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """Large figures: what, figure, small print."""
    cells = (
        f"<div class=tile><span class=what>{escape(what)}</span><strong>{escape(figure)}</strong>"
        f"<small>{escape(small)}</small></div>"
        for what, figure, small in values
    )
    return Html(f"<div class=tiles>{''.join(cells)}</div>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> Html:
    """A table whose first column is words and whose others are figures; `kind` is `words` where all are words."""
    cells = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{cells}</tr></thead>" if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return Html(f'<div class=scroll><table class="{escape(kind)}">{top}<tbody>{body}</tbody></table></div>')


def bars(rows: Sequence[tuple[str, int]]) -> Html:
    """Counts as bars with their names: for names of any length."""
    most = max((count for _, count in rows), default=1) or 1
    lines = (
        f"<tr><td>{escape(name)}</td><td>{count:,}</td>"
        f'<td class=bar><i style="width:{100 * count / most:.1f}%"></i></td></tr>'
        for name, count in rows
    )
    return Html(f"<div class=scroll><table class=bars><tbody>{''.join(lines)}</tbody></table></div>")


def columns(*parts: Html) -> Html:
    """Parts side by side where there is room."""
    return Html(f"<div class=columns>{''.join(f'<div>{part.text}</div>' for part in parts)}</div>")


@cache
def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
