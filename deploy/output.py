"""The lines of all processes, told apart: on the terminal with a coloured name, in one file for each process."""

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
    """Called with (who, line): writes the line to the terminal and into `<folder>/<who>.log`, which rotates."""

    def __init__(self, folder: Path, terminal: TextIO | None = None) -> None:
        self.folder = folder
        self._terminal = terminal or sys.stdout
        self._is_coloured = self._terminal.isatty()
        self._files: dict[str, RotatingFileHandler] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __call__(self, who: str, line: str) -> None:
        """Write one line of one process."""
        name = who.ljust(NAME_WIDTH)
        if self._is_coloured:
            name = click.style(name, fg=COLOURS.get(who), bold=who not in COLOURS)
        with suppress(OSError, ValueError):  # the terminal was closed: the files still get the line
            self._terminal.write(f"{time.strftime('%H:%M:%S')} {name} │ {line}\n")
            self._terminal.flush()
        self._file(who).emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the files."""
        for handler in self._files.values():
            handler.close()
        self._files.clear()

    def _file(self, who: str) -> RotatingFileHandler:
        if who not in self._files:
            handler = RotatingFileHandler(
                self.folder / f"{who}.log", maxBytes=LOG_BYTES, backupCount=LOG_GENERATIONS, encoding="utf-8"
            )
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._files[who] = handler
        return self._files[who]
