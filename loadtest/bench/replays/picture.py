"""Replayed streams as one SVG: CPU time a text by process, without a cache = 1, and the tiers that answered."""

from collections.abc import Iterator, Sequence
from typing import Final

from loadtest.bench.replays.report import WITHOUT, Replayed, Replays
from loadtest.plot import GRID, Box, Plot, Scale, svg
from loadtest.tiers import HITS, MISS

LEFT, WIDTH, GAP, TOP = 210, 300, 44, 62
BAR, STEP, BETWEEN = 14, 19, 16  # a bar, from one to the next, more between streams
PROCESSES: Final = {"engine": "#9aa5b1", "gateway": "#2f6f9f", "redis": "#b5533c"}
TIERS: Final = {HITS[0]: "#2a9d8f", HITS[1]: "#2f6f9f", HITS[2]: "#d99a1c", MISS: "#c9ced6"}
NAMES: Final = {HITS[0]: "L0", HITS[1]: "Redis", HITS[2]: "semantic", MISS: "computed"}
GREY: Final = "#777"
ATTRIBUTES: Final = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="12" fill="#333"'
TITLE: Final = 'font-size="14" font-weight="600"'
LEAST_LABELLED: Final = 0.06  # of a row


def draw(replays: Replays) -> str:
    """The SVG."""
    places = list(_places(replays.replayed))
    height = places[-1][1] + STEP - TOP
    width, whole = LEFT + 2 * WIDTH + GAP + 24, TOP + height + 34
    most = max(_ratio(one, replays) for one in replays.replayed)
    cpu = Plot(Box(LEFT, TOP, WIDTH, height), Scale(0, max(1.0, most) * 1.12), Scale(0, 1))
    tiers = Plot(Box(LEFT + WIDTH + GAP, TOP, WIDTH, height), Scale(0, 1), Scale(0, 1))
    cpu.text(LEFT, 22, "CPU time a text, cache off = 1", more=TITLE)
    tiers.text(tiers.box.left, 22, "texts by the tier that answered", more=TITLE)
    _key(cpu, PROCESSES)
    _key(tiers, {NAMES[tier]: colour for tier, colour in TIERS.items()})
    for value in (0.0, 0.5, 1.0):
        cpu.mark(value, GRID)
        cpu.tick(value, f"{value:g}")
        tiers.mark(value, GRID)
        tiers.tick(value, f"{value:.0%}")
    for one, y, is_first in places:
        if is_first:
            cpu.text(8, y + BAR - 2, one.stream, more='font-weight="600"')
        cpu.text(LEFT - 8, y + BAR - 2, one.setting, anchor="end", colour=GREY)
        _cpu_bar(cpu, one, replays, y)
        _tier_bar(tiers, one, y)
    return svg(
        width, whole, [f'<rect width="{width}" height="{whole}" fill="#fff"/>', *cpu.parts, *tiers.parts], ATTRIBUTES
    )


def _places(replayed: Sequence[Replayed]) -> Iterator[tuple[Replayed, float, bool]]:
    """Each row, its upper edge in pixels, and whether it is its stream's first."""
    y, before = float(TOP + 4), ""
    for one in replayed:
        is_first = one.stream != before
        if before and is_first:
            y += BETWEEN
        yield one, y, is_first
        y, before = y + STEP, one.stream


def _ratio(one: Replayed, replays: Replays) -> float:
    return one.cpu_ms / replays.beside(one, WITHOUT).cpu_ms


def _cpu_bar(plot: Plot, one: Replayed, replays: Replays, y: float) -> None:
    base, start = replays.beside(one, WITHOUT).cpu_ms, 0.0
    for process, colour in PROCESSES.items():
        end = start + one.process_ms(process) / base
        plot.bar(start, end, y, BAR, colour)
        start = end
    plot.text(plot.x(start) + 4, y + BAR - 2, f"{_ratio(one, replays):.2f}", colour=GREY)


def _tier_bar(plot: Plot, one: Replayed, y: float) -> None:
    start = 0.0
    for tier, colour in TIERS.items():
        share = one.share(tier)
        plot.bar(start, start + share, y, BAR, colour)
        if share >= LEAST_LABELLED:
            ink = "#333" if tier == MISS else "#fff"
            middle = (plot.x(start) + plot.x(start + share)) / 2
            plot.text(middle, y + BAR - 3, f"{share:.0%}", anchor="middle", colour=ink, more='font-size="11"')
        start += share


def _key(plot: Plot, colours: dict[str, str]) -> None:
    for place, (name, colour) in enumerate(colours.items()):
        plot.text(plot.box.left + 76 * place, 44, "■", colour=colour)
        plot.text(plot.box.left + 76 * place + 14, 44, name)
