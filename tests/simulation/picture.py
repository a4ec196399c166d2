"""The curves behind the ceilings as one SVG: what each threshold would reuse, and how much of it would violate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.plot import Box, Plot, Scale, svg
from tests.simulation.streams import Float32Array

WIDTH, HEIGHT, LEFT, TOP, GAP = 380, 250, 46, 44, 64
MOST_VIOLATIONS = 0.15
GREY = "#777"
RED = "#b33"
SVG_ATTRIBUTES = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="12" fill="#333"'
POINTS = 120


@dataclass(frozen=True, slots=True)
class Curve:
    """One way to choose: its name, its colour, and (share reused, share of it that violates) by threshold."""

    name: str
    colour: str
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One stream at one fidelity; `oracle`: the share that perfect choices would reuse."""

    title: str
    oracle: float
    curves: Sequence[Curve]


def curve(name: str, colour: str, z: Float32Array, good: npt.NDArray[np.bool_]) -> Curve:
    """From the scores of all requests' best candidates, and which of them are within the fidelity."""
    by_z = np.argsort(-z, kind="stable")
    counts = np.arange(1, len(z) + 1)
    shares, violations = counts / len(z), np.cumsum(~good[by_z]) / counts
    fewest = min(20, len(z) - 1)  # a share of fewer says nothing
    places = np.unique(np.linspace(fewest, len(z) - 1, POINTS).astype(int))
    dense = np.unique(np.linspace(fewest, len(z) // 2, POINTS).astype(int))
    chosen = np.union1d(places, dense)
    return Curve(name, colour, [(float(shares[i]), float(violations[i])) for i in chosen])


def draw(panels: Sequence[Panel]) -> str:
    """The SVG."""
    width, height = LEFT + len(panels) * (WIDTH + GAP), HEIGHT + 2 * TOP + 40
    parts = [f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * (WIDTH + GAP))
    return svg(width, height, parts, SVG_ATTRIBUTES)


def _panel(panel: Panel, left: int) -> list[str]:
    box = Box(left, TOP, WIDTH, HEIGHT)
    most = max(0.1, float(np.ceil(panel.oracle * 20 + 1)) / 20)
    plot = Plot(box, Scale(0, most), Scale(0, MOST_VIOLATIONS))
    plot.text(left, TOP - 18, panel.title, more='font-size="14" font-weight="600"')
    for violations in (0.0, 0.05, 0.1, 0.15):
        plot.grid_line(violations, f"{violations:.0%}")
    for tenth in range(int(most * 10 + 0.01) + 1):
        plot.tick(tenth / 10, f"{tenth * 10}%")
    note = "share of requests reused; upwards: of those, violations"
    plot.text(left, box.bottom + 34, note, colour=GREY)
    plot.level(0.05, RED, dashes="4 3")
    plot.text(box.right, plot.y(0.05) - 5, "5 % violations", anchor="end", colour=RED)
    plot.mark(panel.oracle, "#999", dashes="2 3")
    plot.text(plot.x(panel.oracle) + 4, TOP + 12, "oracle", colour=GREY)
    for place, one in enumerate(panel.curves):
        plot.line(((share, v) for share, v in one.points if share <= most and v <= MOST_VIOLATIONS), one.colour)
        plot.text(left + 88 * place, box.bottom + 54, one.name, colour=one.colour)
    return plot.parts
