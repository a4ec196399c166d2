"""The curves behind the ceilings as one SVG: what each threshold would reuse, and how much of it would violate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.simulation.streams import Float32Array

WIDTH, HEIGHT, LEFT, TOP, GAP = 380, 250, 46, 44, 64
MOST_VIOLATIONS = 0.15
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
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 2 * TOP + 40}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{HEIGHT + 2 * TOP + 40}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * (WIDTH + GAP))
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, left: int) -> list[str]:
    right, bottom = left + WIDTH, TOP + HEIGHT
    most = max(0.1, np.ceil(panel.oracle * 20 + 1) / 20)

    def x(share: float) -> float:
        return left + WIDTH * share / most

    def y(violations: float) -> float:
        return bottom - HEIGHT * min(violations, MOST_VIOLATIONS) / MOST_VIOLATIONS

    parts = [f'<text x="{left}" y="{TOP - 18}" font-size="14" font-weight="600">{panel.title}</text>']
    for tick in range(4):
        violations = tick * 0.05
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(violations)}" y2="{y(violations)}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(violations) + 4}" text-anchor="end">{violations:.0%}</text>')
    parts += [
        f'<text x="{x(tick / 10):.0f}" y="{bottom + 16}" text-anchor="middle">{tick * 10}%</text>'
        for tick in range(int(most * 10 + 0.01) + 1)
    ]
    parts.append(
        f'<text x="{left}" y="{bottom + 34}" fill="#777">share of requests reused; upwards: of those, violations</text>'
    )
    parts.append(f'<line x1="{left}" x2="{right}" y1="{y(0.05)}" y2="{y(0.05)}" stroke="#b33" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{right}" y="{y(0.05) - 5}" text-anchor="end" fill="#b33">5 % violations</text>')
    oracle = x(panel.oracle)
    parts.append(
        f'<line x1="{oracle:.1f}" x2="{oracle:.1f}" y1="{TOP}" y2="{bottom}" stroke="#999" stroke-dasharray="2 3"/>'
    )
    parts.append(f'<text x="{oracle + 4:.1f}" y="{TOP + 12}" fill="#777">oracle</text>')
    for place, one in enumerate(panel.curves):
        inside = [(share, v) for share, v in one.points if share <= most and v <= MOST_VIOLATIONS]
        line = " ".join(f"{x(share):.1f},{y(v):.1f}" for share, v in inside)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{one.colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 88 * place}" y="{bottom + 54}" fill="{one.colour}">{one.name}</text>')
    return parts
