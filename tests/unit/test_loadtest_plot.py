"""Plots as SVG: where values lie, and that labels are text."""

import xml.etree.ElementTree as ET

import pytest

from loadtest.plot import Box, Plot, Scale, decades, svg


def test_scales() -> None:
    """Linear and logarithmic; what lies beyond an end lies on it."""
    assert [Scale(0, 10).share(value) for value in (-1, 0, 5, 10, 11)] == [0, 0, 0.5, 1, 1]
    assert Scale(0.01, 100, is_logarithmic=True).share(1) == pytest.approx(0.5)


@pytest.mark.parametrize(("low", "high", "ends"), [(0.002, 0.3, (0.001, 1.0)), (0.01, 0.01, (0.01, 0.1))])
def test_decades_hold_both_ends(low: float, high: float, ends: tuple[float, float]) -> None:
    """Whole decades, at least one."""
    scale = decades(low, high)
    assert (scale.low, scale.high) == pytest.approx(ends)


def test_a_plot_is_well_formed_and_upright() -> None:
    """Greater values lie higher and further right; labels are escaped."""
    plot = Plot(Box(10, 10, 100, 50), Scale(0, 1), Scale(0, 1))
    plot.grid_line(0, "a < b")
    plot.mark(1, "#999", dashes="2 3")
    plot.dots([(0, 0), (1, 1)], "#111")
    plot.line([(0, 1), (1, 0)], "#222")
    root = ET.fromstring(svg(120, 70, plot.parts))
    low, high = (dot.attrib for dot in root.iter("circle"))
    assert (low["cx"], low["cy"], high["cx"], high["cy"]) == ("10.0", "60.0", "110.0", "10.0")
    assert next(root.iter("polyline")).attrib["points"] == "10.0,10.0 110.0,60.0"
    assert next(root.iter("text")).text == "a < b"
