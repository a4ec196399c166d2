"""The lines of all processes: on the terminal behind the process's coloured name, and in one file for each process."""

import logging
import os
import sys
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

import click

from common.logs import DropsLines, printable

NAME_WIDTH = 8
COLOURS = {"redis": "red", "engine": "magenta", "gateway": "cyan"}
LOG_BYTES = 10 * 2**20
LOG_GENERATIONS = 2
MAX_CHARACTERS = 16_384  # of one line; our own processes' have at most 4,000


class LogFile(DropsLines, RotatingFileHandler):
    """One process's file, opened with its first line; a line that cannot be written is dropped and counted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Count the line and open the file anew for the next: what its buffer holds would fail again and again."""
        super().handleError(record)
        stream, self.stream = self.stream, None
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.close()


class Output:
    """Called with (name, line): writes the line to the terminal and into `<folder>/<name>.log`, which rotates.

    Where one of the two cannot be written to, the other gets the line all the same.
    """

    def __init__(self, folder: Path, terminal: TextIO | None = None) -> None:
        self.folder = folder
        self._terminal = terminal or sys.stdout
        self._is_coloured = self._terminal.isatty()
        self._files: dict[str, LogFile] = {}
        self._reported: set[str] = set()  # files that are known to be unusable
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __call__(self, name: str, line: str) -> None:
        """Write one line of one process."""
        line = printable(line, keep="\t")[:MAX_CHARACTERS]
        self._show(name, line)
        file = self._file(name)
        file.handle(logging.makeLogRecord({"name": name, "levelno": logging.INFO, "msg": line}))
        if file.dropped and name not in self._reported:
            self._reported.add(name)
            self._show(name, f"(log file {file.baseFilename} cannot be written to: lines are on the terminal alone)")
        elif not file.dropped:
            self._reported.discard(name)

    def close(self) -> None:
        """Close the files, and leave nothing in a terminal's buffer that would fail at the end of the process."""
        for handler in self._files.values():
            with suppress(OSError, ValueError):  # the disk is still full
                handler.close()
        self._files.clear()
        try:
            self._terminal.flush()
        except (OSError, ValueError):
            _discard(self._terminal)

    def _show(self, name: str, line: str) -> None:
        shown = name.ljust(NAME_WIDTH)
        if self._is_coloured:
            shown = click.style(shown, fg=COLOURS.get(name), bold=name not in COLOURS)
        try:
            self._terminal.write(f"{time.strftime('%H:%M:%S')} {shown} │ {line}\n")
            self._terminal.flush()
        except (OSError, ValueError):  # closed, or a file on a full disk: the log files still get the line
            return

    def _file(self, name: str) -> LogFile:
        if name not in self._files:
            path = self.folder / f"{name}.log"
            handler = LogFile(
                path,
                maxBytes=LOG_BYTES,
                backupCount=LOG_GENERATIONS,
                encoding="utf-8",
                errors="backslashreplace",
                delay=True,
            )
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            self._files[name] = handler
        return self._files[name]


def _discard(stream: TextIO) -> None:
    """Let what is left in a stream's buffer go nowhere, where it has a descriptor."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return
