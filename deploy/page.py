"""How `dejavec up`, `doctor` and `status` show what they found: a frame with one row for each thing."""

from collections.abc import Iterable

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text


def show_rows(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values in a frame; a value that is too long is folded, never cut."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    console.print(Panel(table, title=title, expand=False))
