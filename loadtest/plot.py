"""Plots as SVG text: dots, lines, bars and labels over a grid, on linear or logarithmic scales.

    plot = Plot(Box(48, 48, 764, 164), Scale(0, 60), Scale(1e-4, 1, is_logarithmic=True))
    plot.grid_line(0.01, "10 ms")
    plot.dots([(1.5, 0.002)], "#2a9d8f")
    page = svg(860, 260, plot.parts)

For pictures in documents, which must be a few KB of SVG without a script. Reports have their plots by a library:
`loadtest.page`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

GRID = "#ddd"
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """Where a plot's data lie, in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.top + self.height


@dataclass(frozen=True, slots=True)
class Scale:
    """The values at an axis' two ends; those beyond lie on its ends. `low` is above 0 where it is logarithmic."""

    low: float
    high: float
    is_logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies on the axis, from 0 to 1."""
        value = min(max(value, self.low), self.high)
        if self.is_logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def decades(low: float, high: float) -> Scale:
    """The logarithmic scale of whole decades, at least one, that holds both."""
    first = math.floor(math.log10(low))
    return Scale(10.0**first, 10.0 ** max(math.ceil(math.log10(high)), first + 1), is_logarithmic=True)


class Plot:
    """One plot; `parts` are its SVG elements in the order they were drawn."""

    def __init__(self, box: Box, x: Scale, y: Scale) -> None:
        self.box = box
        self.parts: list[str] = []
        self._x = x
        self._y = y

    def x(self, value: float) -> float:
        """A value's place from left to right, in pixels."""
        return self.box.left + self._x.share(value) * self.box.width

    def y(self, value: float) -> float:
        """A value's place from top to bottom, in pixels."""
        return self.box.bottom - self._y.share(value) * self.box.height

    def grid_line(self, y: float, label: str) -> None:
        """A horizontal line with its label at the left."""
        self.level(y, GRID)
        self.text(self.box.left - 6, self.y(y) + 4, label, anchor="end")

    def level(self, y: float, colour: str, dashes: str = "") -> None:
        """A horizontal line from edge to edge."""
        self._segment((self.box.left, self.y(y)), (self.box.right, self.y(y)), colour, dashes)

    def mark(self, x: float, colour: str, dashes: str = "") -> None:
        """A vertical line from edge to edge."""
        self._segment((self.x(x), self.box.top), (self.x(x), self.box.bottom), colour, dashes)

    def tick(self, x: float, label: str, anchor: str = "middle") -> None:
        """A label under the plot."""
        self.text(self.x(x), self.box.bottom + 16, label, anchor=anchor)

    def dots(self, points: Iterable[Point], colour: str) -> None:
        """A half transparent dot at each (x, y)."""
        self.parts += [
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="1.6" fill="{colour}" fill-opacity=".55"/>'
            for x, y in points
        ]

    def line(self, points: Iterable[Point], colour: str) -> None:
        """A line through (x, y)."""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')

    def bar(self, start: float, end: float, y: float, height: float, colour: str) -> None:
        """A bar from one value of x to another; its upper edge `y` and its height are in pixels."""
        left, right = self.x(start), self.x(end)
        place = f'x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {place} fill="{colour}"/>')

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", colour: str = "", more: str = "") -> None:
        """A label at pixels; `more`: further attributes."""
        fill = f' fill="{colour}"' if colour else ""
        more = f" {more}" if more else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{fill}{more}>{escape(text)}</text>')

    def _segment(self, start: Point, end: Point, colour: str, dashes: str) -> None:
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        self.parts.append(f'<line {ends} stroke="{colour}"{dashed}/>')


def svg(width: float, height: float, parts: Sequence[str], attributes: str = 'role="img"') -> str:
    """The elements as one SVG element; a file of its own needs `xmlns` among the attributes."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" {attributes}>' + "\n".join(parts) + "</svg>\n"
