"""The study on a terminal, and as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.study import tables
from loadtest.study.figures import Study, limits, references, verdict


def show(study: Study, console: Console) -> None:
    """Print all of it."""
    for line in verdict(study):
        console.print(f"[bold]{escape(line)}[/]")
    console.print(escape(tables.machine_line(study.machine)))
    if warning := study.machine.warning:
        console.print(f"[red]{escape(warning)}[/]")
    for title, head, rows in _all(study):
        table = Table(title=title, title_justify="left", box=None)
        for number, name in enumerate(head):
            words = number == 0 or head in (tables.REFERENCE_HEAD, ("", ""))
            table.add_column(escape(name), justify="left" if words else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print("", table)
    for note in (*tables.NOTES, limits(study.machine)):
        console.print(f"[dim]{escape(note)}[/]")


def markdown(study: Study) -> str:
    """All tables for a document, what was lost first."""
    lines = [*verdict(study), "", tables.machine_line(study.machine), study.machine.warning]
    for title, head, rows in _all(study):
        lines += ["", f"**{title}**", "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in (*tables.NOTES, limits(study.machine)))]) + "\n"


def _all(study: Study) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    yield "Speed", tables.SPEED_HEAD, tables.speed_rows(study)
    yield "Accuracy and size", tables.ACCURACY_HEAD, tables.accuracy_rows(study)
    yield "Batch sizes", *tables.sweep_rows(study)
    if chunks := tables.chunk_rows(study):
        yield "Chunks of 100 to 500 characters", tables.CHUNK_HEAD, chunks
    yield "Reference figures", tables.REFERENCE_HEAD, tables.reference_rows(references(study))
    if study.left_out:
        yield "Left out", ("", ""), [(one.name, one.reason) for one in study.left_out]
    yield "Versions", ("", ""), tables.package_rows(study)
    yield "Settings", ("", ""), tables.settings_rows(study)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
