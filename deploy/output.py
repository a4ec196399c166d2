"""The lines of all processes: on the terminal behind the process's coloured name, and in one file for each process."""

import logging
import sys
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

import click

NAME_WIDTH = 8
COLOURS = {"redis": "red", "engine": "magenta", "gateway": "cyan"}
LOG_BYTES = 10 * 2**20
LOG_GENERATIONS = 2


class Output:
    """Called with (name, line): writes the line to the terminal and into `<folder>/<name>.log`, which rotates."""

    def __init__(self, folder: Path, terminal: TextIO | None = None) -> None:
        self.folder = folder
        self._terminal = terminal or sys.stdout
        self._is_coloured = self._terminal.isatty()
        self._files: dict[str, RotatingFileHandler] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __call__(self, name: str, line: str) -> None:
        """Write one line of one process."""
        shown = name.ljust(NAME_WIDTH)
        if self._is_coloured:
            shown = click.style(shown, fg=COLOURS.get(name), bold=name not in COLOURS)
        with suppress(OSError, ValueError):  # the terminal was closed: the files still get the line
            self._terminal.write(f"{time.strftime('%H:%M:%S')} {shown} │ {line}\n")
            self._terminal.flush()
        self._file(name).emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the files."""
        for handler in self._files.values():
            handler.close()
        self._files.clear()

    def _file(self, name: str) -> RotatingFileHandler:
        if name not in self._files:
            handler = RotatingFileHandler(
                self.folder / f"{name}.log", maxBytes=LOG_BYTES, backupCount=LOG_GENERATIONS, encoding="utf-8"
            )
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._files[name] = handler
        return self._files[name]
