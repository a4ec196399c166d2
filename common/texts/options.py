"""The command-line options of reading texts, the same for every command that only reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from common.texts.form import Format

FORMAT_HELP: Final = "How the file holds its texts; by default by its suffix (.jsonl, .csv, .tsv, .parquet), else {}."
PLAIN_HELP: Final = "one a line"


def format_option(otherwise: str = PLAIN_HELP) -> Callable[[Any], Any]:
    """--format."""
    return click.option("--format", type=click.Choice(Format, case_sensitive=False), help=FORMAT_HELP.format(otherwise))


field_option = click.option(
    "--field", default="text", show_default=True, help="The field or column that holds the text."
)
bad_lines_option = click.option(
    "--bad-lines",
    "bad_lines_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the number and reason of each line that was skipped to this file, as JSON Lines.",
)
