"""The log format of all processes."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.logs import MAX_CHARACTERS, MAX_RECORDS, PERIOD_S, DroppingStreamHandler, Flood, KeyValueFormatter

ROOT = Path(__file__).parents[2]


def record(created_s: float, message: str = "again") -> logging.LogRecord:
    entry = logging.LogRecord("engine", logging.WARNING, "place.py", 1, message, None, None)
    entry.created = created_s
    return entry


def test_a_flood_of_one_line_is_cut_and_counted() -> None:
    """One line of code writes MAX_RECORDS in a period; the next period says how many were held back."""
    flood = Flood()
    written = [flood.filter(record(100.0)) for _ in range(MAX_RECORDS + 5)]
    assert sum(written) == MAX_RECORDS
    late = record(100.0 + PERIOD_S + 1)
    assert flood.filter(late)
    assert "5 like it" in late.getMessage()


def test_a_record_is_one_bounded_line() -> None:
    """A message with line breaks stays on one line, and a huge one is cut."""
    text = KeyValueFormatter().format(record(0.0, 'two\nlines "quoted" ' + "x" * 10_000))
    assert "\n" not in text
    assert '\\"quoted\\"' in text
    assert len(text) <= MAX_CHARACTERS + 3


def test_a_long_traceback_keeps_its_error() -> None:
    """What is cut out is in the middle."""
    try:
        raise ValueError("x" * 10_000 + " the reason")
    except ValueError:
        entry = logging.LogRecord("engine", logging.ERROR, "place.py", 1, "failed", None, sys.exc_info())
    text = KeyValueFormatter().format(entry)
    assert text.startswith("time=")
    assert text.endswith("the reason")
    assert len(text) <= MAX_CHARACTERS + 3


def formatted(message: str) -> str:
    return KeyValueFormatter().format(record(0.0, message))


@pytest.mark.parametrize("character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\ud800"])
def test_a_message_cannot_forge_a_line_or_steer_a_terminal(character: str) -> None:
    """Control characters are escaped, whatever request id or path they came in."""
    line = formatted(f"path /a{character}time=2026 level=error")
    assert character not in line
    assert len(line.splitlines()) == 1


def test_a_traceback_cannot_forge_a_line() -> None:
    """Only a record starts at the margin, whatever the exception says."""
    try:
        raise ValueError("bad\ntime=2026-01-01T00:00:00 level=info msg=forged \x1b[2J")
    except ValueError:
        entry = logging.LogRecord("engine", logging.ERROR, "place.py", 1, "failed", None, sys.exc_info())
    text = KeyValueFormatter().format(entry)
    assert [line for line in text.splitlines() if line.startswith("time=")] == [text.splitlines()[0]]
    assert "\x1b" not in text


def test_credentials_of_urls_are_hidden() -> None:
    """In messages and in tracebacks, though a caller forgot."""
    try:
        raise OSError("redis://:hunter2@cache/0 refused")
    except OSError:
        entry = logging.LogRecord(
            "gateway", logging.ERROR, "p.py", 1, "engine http://me:hunter2@gpu away", None, sys.exc_info()
        )
    text = KeyValueFormatter().format(entry)
    assert "hunter2" not in text
    assert 'msg="engine http://***@gpu away"' in text


class Failing(io.StringIO):
    """A stream that raises what it is told to."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), BrokenPipeError(), OSError(9, "Bad file descriptor"), ValueError()],
)
def test_lines_that_cannot_be_written_are_counted(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is raised or printed; when lines can be written again, one says how many were lost."""
    stream = Failing()
    handler = DroppingStreamHandler(stream)
    stream.error = error
    for _ in range(3):
        handler.handle(record(0.0))
    assert handler.dropped == 3
    stream.error = None
    handler.handle(record(0.0, "back"))
    assert stream.getvalue() == "back\n3 log lines before this one could not be written\n"
    assert handler.dropped == 0
    assert capsys.readouterr() == ("", "")


def test_a_record_that_cannot_be_formatted_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of ours in a rare line is no reason to print a trace."""
    handler = DroppingStreamHandler(io.StringIO())
    handler.handle(logging.LogRecord("engine", logging.ERROR, "place.py", 1, "%d", ("x",), None))
    assert handler.dropped == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("target", ["/dev/full", "closed"])
def test_a_process_outlives_its_log(target: str) -> None:
    """Standard error on a full disk, or closed at its other end: the process goes on, prints no trace and ends well."""
    code = (
        "import logging, sys; from common import logs; logs.configure('info');"
        "[logging.getLogger('x').warning('line %d', i) for i in range(30)]; print('alive')"
    )
    if target == "closed":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(target, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True, check=False, cwd=ROOT
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "alive\n")
