"""The log format of all processes."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import request_ids
from common.logs import (
    MAX_CHARACTERS,
    MAX_RECORDS,
    PERIOD_S,
    DroppingStreamHandler,
    JsonFormatter,
    KeyValueFormatter,
    LogHandler,
)

ROOT = Path(__file__).parents[2]


def record(created_s: float, message: str = "again") -> logging.LogRecord:
    entry = logging.LogRecord("engine", logging.WARNING, "place.py", 1, message, None, None)
    entry.created = created_s
    return entry


def test_a_flood_of_one_line_is_cut_and_counted() -> None:
    """One line of code writes MAX_RECORDS in a period; the next line after it, of whomever, comes with their number."""
    stream = io.StringIO()
    handler = LogHandler(stream)
    for number in range(MAX_RECORDS + 5):
        handler.handle(record(100.0 + number / 1000))
    assert stream.getvalue() == "again\n" * MAX_RECORDS
    other = logging.LogRecord("engine", logging.WARNING, "place.py", 2, "other", None, None)
    other.created = 100.0 + PERIOD_S + 1
    handler.handle(other)
    assert stream.getvalue().splitlines()[MAX_RECORDS:] == ["5 similar lines left out: again", "other"]
    handler.handle(record(other.created))
    assert stream.getvalue().splitlines()[-1] == "again"


def test_lines_left_out_are_counted_at_the_end_too() -> None:
    """Also where nothing is logged after them."""
    stream = io.StringIO()
    handler = LogHandler(stream)
    for _ in range(MAX_RECORDS + 1):
        handler.handle(record(100.0))
    handler.close()
    assert stream.getvalue().splitlines()[-1] == "1 similar lines left out: again"


def test_the_number_of_lines_left_out_shows_the_template_and_no_values() -> None:
    """Values that differ from line to line would be those of one of them."""
    stream = io.StringIO()
    handler = LogHandler(stream)
    for number in range(MAX_RECORDS + 2):
        one = logging.LogRecord("engine", logging.WARNING, "place.py", 1, "number %d", (number,), None)
        one.created = 100.0
        handler.handle(one)
    handler.close()
    assert stream.getvalue().splitlines()[-1] == "2 similar lines left out: number %d"


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


def failed(message: str) -> logging.LogRecord:
    try:
        raise OSError(message)
    except OSError:
        return logging.LogRecord("gateway", logging.ERROR, "p.py", 1, "failed %s", ("here",), sys.exc_info())


def test_json_is_one_object_a_line() -> None:
    """The same fields as the text has; the traceback is one of them."""
    entry = failed("redis://:hunter2@cache/0 refused")
    line = JsonFormatter().format(entry)
    assert "\n" not in line
    found = json.loads(line)
    assert found.keys() == {"time", "level", "logger", "message", "exception"}
    assert (found["level"], found["logger"], found["message"]) == ("error", "gateway", "failed here")
    assert found["exception"].endswith("OSError: redis://***@cache/0 refused")
    assert found["time"].endswith("Z")


@pytest.mark.parametrize("message", ["x" * 10_000, '"' * 10_000, "\n" * 10_000, "\u202e" * 10_000, "\\" * 10_000])
def test_json_is_bounded_and_escaped(message: str) -> None:
    """Whatever a record holds, a line is an object of at most MAX_CHARACTERS that steers no terminal."""
    for entry in (record(0.0, message), failed(message)):
        line = JsonFormatter().format(entry)
        assert len(line) <= MAX_CHARACTERS
        assert len(line.splitlines()) == 1
        assert "\u202e" not in line
        assert json.loads(line)["message"]


def test_lines_of_a_request_carry_its_id() -> None:
    """In both forms; lines of no request, and those about other lines, have none."""
    token = request_ids.current.set("req-1")
    try:
        assert ' request_id=req-1 msg="again"' in KeyValueFormatter().format(record(0.0))
        assert json.loads(JsonFormatter().format(record(0.0)))["request_id"] == "req-1"
        about = record(0.0)
        about.is_about_lines = True
        assert "request_id" not in KeyValueFormatter().format(about)
    finally:
        request_ids.current.reset(token)
    assert "request_id" not in KeyValueFormatter().format(record(0.0))


@pytest.mark.parametrize("given", [None, b"", b"a b", b"a\nb", b"a" * 129, b"\xff", b'a"b'])
def test_a_request_id_that_could_harm_is_not_taken(given: bytes | None) -> None:
    """It is repeated in headers and logs."""
    assert request_ids.accepted(given) == ""
    assert request_ids.accepted(request_ids.new().encode()) != ""


@pytest.mark.parametrize(("level", "told"), [("info", 1), ("error", 0)])
def test_of_uvicorns_information_a_workers_death_alone_is_written(level: str, told: int) -> None:
    """As a warning, where warnings are written at all; its other lines repeat our own."""
    code = (
        f"import logging; from common import logs; logs.configure({level!r}); log = logging.getLogger('uvicorn.error');"
        "log.info('Started server process [%d]', 7); log.info('Child process [7] died'); log.error('it broke')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    *death, broken = done.stderr.splitlines()
    assert broken.endswith('level=error logger=uvicorn.error msg="it broke"')
    assert len(death) == told
    assert all(" level=warning " in line and "worker process 7 ended unexpectedly" in line for line in death)
