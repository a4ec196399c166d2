"""A file that a command writes when its work is done, tried before the work begins, which would else be lost.

@click.option("--json", "json_file", type=OutputFile(), help="Write all figures.")
"""

import os
from pathlib import Path
from typing import Any

import click


class OutputFile(click.Path):
    """The type of an option that names such a file; the command gets it as a Path."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error where the file could not be written now."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        why = refusal(path)
        if why is not None:
            self.fail(f"{path} cannot be written: {why}", param, ctx)
        return path


def refusal(path: Path) -> str | None:
    """Why a file could not be written now, or None. One that is not there is made and taken away again."""
    folder = path.absolute().parent
    try:
        if not folder.is_dir():
            return f"there is no folder {path.parent}"
        if not path.exists():
            target = Path(os.path.realpath(path))  # of a link to a file that is still to be written
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            target.unlink()
    except FileExistsError:
        return None  # made by somebody else meanwhile
    except OSError as error:
        return error.strerror or type(error).__name__
    return None
