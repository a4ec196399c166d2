"""The study as one page in the style of the load test's."""

from collections.abc import Iterable

from loadtest.page import charts
from loadtest.page.charts import DASHED, DOTTED, SOLID, Line
from loadtest.page.document import Chart, Html, Page, bars, header, paragraph, table, tiles, warning
from loadtest.study import tables
from loadtest.study.candidates import ENGINE, TORCH
from loadtest.study.figures import BATCH, CHUNKS, Measured, Study, limits, references, verdict

COLOURS = {
    "usual": ("other", "miss", "mixed"),
    "ours": ("local", "exact", "accent"),
    "peer": ("semantic", "bad", "good"),
}
LEAST_LOSS = 1e-5
DASHES = (SOLID, DASHED, DOTTED)


def render(study: Study) -> str:
    """The whole page; what was lost stands first."""
    page = Page("How fast, how small, how true: ways to run one embedding model on one core")
    page.add(header(page.title, *verdict(study), tables.machine_line(study.machine)))
    if text := study.machine.warning:
        page.add(warning(text))
    page.add(tiles(_headline(study)))
    page.section("Speed", table(tables.SPEED_HEAD, tables.speed_rows(study)), _note(0), _note(1))
    page.section("Accuracy and size", table(tables.ACCURACY_HEAD, tables.accuracy_rows(study)), _note(2))
    if study.measured:
        page.section("Batch sizes", page.chart(_by_batch(study)), table(*tables.sweep_rows(study)))
    if any(one.accuracy.mean is not None for one in study.measured):
        page.section("Accuracy beside speed", page.chart(_accuracy(study)), intro="A fast wrong vector is none.")
    if rows := tables.chunk_rows(study):
        page.section("Chunks of 100 to 500 characters", _chunk_bars(study), table(tables.CHUNK_HEAD, rows))
    page.section(
        "Reference figures beside ours",
        table(tables.REFERENCE_HEAD, tables.reference_rows(references(study)), "words"),
        paragraph(limits(study.machine), "note"),
    )
    if study.left_out:
        page.section("Left out", table(("", ""), [(one.name, one.reason) for one in study.left_out], "words"))
    page.section("Versions", table(("", ""), tables.package_rows(study), "words"))
    page.section("Settings", table(("", ""), tables.settings_rows(study), "words"))
    return page.html()


def _note(number: int) -> Html:
    return paragraph(tables.NOTES[number], "note")


def _headline(study: Study) -> Iterable[tuple[str, str, str]]:
    engine, torch = study.find(ENGINE), study.find(TORCH)
    if engine is None:
        return
    yield "this engine", f"{engine.rates[BATCH].median:,.0f}/s", f"{BATCH} at a time, one core"
    if torch is not None:
        yield (
            "against PyTorch FP32",
            f"{engine.rates[BATCH].median / torch.rates[BATCH].median:.2f} x",
            "the same batches",
        )
        yield "on disk", f"{1 - engine.size_bytes / torch.size_bytes:.0%} smaller", "than the FP32 checkpoint"
    if engine.accuracy.mean is not None:
        yield "cosine to FP32", f"{engine.accuracy.mean:.4f}", f"lowest {engine.accuracy.lowest:.4f}"
    if engine.chunks is not None:
        small = "one core" + (", extrapolated" if engine.chunks.count < CHUNKS else "")
        yield f"{CHUNKS:,} chunks", f"{engine.chunks.seconds_for_all:,.0f} s", small


def _styles(study: Study) -> Iterable[tuple[Measured, str, str]]:
    """Each candidate with a colour of its group, and dashes where colours repeat."""
    seen: dict[str, int] = {}
    for one in study.measured:
        number = seen.get(one.group, 0)
        seen[one.group] = number + 1
        colours = COLOURS[one.group]
        yield one, colours[number % len(colours)], DASHES[number // len(colours) % len(DASHES)]


def _by_batch(study: Study) -> Chart:
    lines = []
    for one, colour, how in _styles(study):
        sizes = sorted(one.rates)
        lines.append(
            (Line(one.name, [one.rates[size].median for size in sizes], colour, how), [float(n) for n in sizes])
        )
    note = "Texts a second of one core's CPU time over texts in a batch; both axes are logarithmic."
    return charts.curve(lines, "Rate by batch size", units=("count", "per_s"), log=(True, True), note=note)


def _accuracy(study: Study) -> Chart:
    lines = []
    for one, colour, _ in _styles(study):
        if one.accuracy.mean is not None:
            line = Line(one.name, [max(1 - one.accuracy.mean, LEAST_LOSS)], colour)
            lines.append((line, [one.rates[BATCH].median]))
    note = (
        f"1 - mean cosine to the baseline over texts a second, {BATCH} at a time: right is faster, low is truer. "
        "What is below 0.001 % is drawn there."
    )
    return charts.curve(lines, "Accuracy over rate", units=("per_s", "share"), log=(False, True), note=note)


def _chunk_bars(study: Study) -> Html:
    return bars([(one.name, round(one.chunks.seconds_for_all)) for one in study.measured if one.chunks])
