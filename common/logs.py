"""The log of every process: one bounded line a record on standard error, and not the same line without end.

`configure(level, format)` once at a process's start. A line that cannot be written (disk full, reader gone) is dropped
and counted, and never ends the process or prints a trace. What is logged, and that it is never a text or a token id, is
the callers' part; credentials in URLs are hidden here too, whoever logs them. Lines of a request carry its id, and
where traces are made the trace's.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from typing import Literal, TextIO

from common import request_ids
from common.credentials import shown_urls_in

Format = Literal["text", "json"]

MAX_RECORDS = 20  # from one line of code ...
PERIOD_S = 10.0  # ... in this time; how many were left out is logged after it
TEMPLATE_CHARACTERS = 200  # of what is shown of the lines that were left out
MAX_CHARACTERS = 4000
HEAD_CHARACTERS = 1000  # of them for a long record's begin; the rest for its end, where a traceback has its error

# C0 and C1 controls, line separators, what turns the direction of writing round, and half characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_WORKER_DIED = re.compile(r"Child process \[(\d+)\] died")

trace_id_of_now: Callable[[], str] | None = None  # set by `common.tracing` where traces are made


def printable(text: str, keep: str = "") -> str:
    """A text with control characters as escapes, but for those in `keep`."""
    return _CONTROLS.sub(lambda found: found.group() if found.group() in keep else _escaped(found.group()), text)


class KeyValueFormatter(logging.Formatter):
    """`time=... level=... logger=... msg="..."`, and an indented traceback behind it, at most MAX_CHARACTERS."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The record's line, without what follows it."""
        words = [f"time={_moment(self, record)} level={record.levelname.lower()} logger={record.name}"]
        words += [f"{name}={value}" for name, value in _ids(record).items()]
        message = printable(shown_urls_in(record.message).replace("\\", "\\\\").replace('"', '\\"'))
        return f'{" ".join(words)} msg="{message}"'

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; only a record's first line starts at the margin, so that none can be forged."""
        line, _, traceback = super().format(record).partition("\n")
        rest = printable(shown_urls_in(traceback), keep="\n\t").replace("\n", "\n  ")
        return _cut(f"{line}\n  {rest}" if rest else line, MAX_CHARACTERS)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `request_id`, `trace_id`, `message`, `exception`.

    Ids and exception are left out where there are none. A line has at most MAX_CHARACTERS.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        message, _, rest = super().format(record).partition("\n") if record.exc_info else (record.getMessage(), "", "")
        entry = {
            "time": _moment(self, record),
            "level": record.levelname.lower(),
            "logger": record.name,
            **_ids(record),
        }
        room = MAX_CHARACTERS
        while True:
            entry["message"] = printable(_cut(shown_urls_in(message), room))
            if rest:
                entry["exception"] = printable(_cut(shown_urls_in(rest), room), keep="\n\t")
            line = json.dumps(entry, ensure_ascii=False)
            if len(line) <= MAX_CHARACTERS:
                return line
            room //= 2


class Flood:
    """Lets MAX_RECORDS of each logging call through in PERIOD_S; of the others only their number is logged after it."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # place in the code -> period's start, records
        self._left_out: dict[tuple[str, int], logging.LogRecord] = {}  # those with too many, and the last of them

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        place = (record.pathname, record.lineno)
        started_s, count = self._seen.get(place, (record.created, 0))
        if record.created - started_s > PERIOD_S:
            started_s, count = record.created, 0
        self._seen[place] = (started_s, count + 1)
        if count < MAX_RECORDS:
            return True
        self._left_out[place] = record
        return False

    def ended(self, now_s: float) -> list[logging.LogRecord]:
        """A record for each place whose period is over and that wrote too much in it."""
        due = [place for place in self._left_out if now_s - self._seen[place][0] > PERIOD_S]
        return [self._number_of(place, self._left_out.pop(place)) for place in due]

    def _number_of(self, place: tuple[str, int], last: logging.LogRecord) -> logging.LogRecord:
        left_out = self._seen.pop(place)[1] - MAX_RECORDS
        text = f"{left_out} similar lines left out: {str(last.msg)[:TEMPLATE_CHARACTERS]}"
        about = {"name": last.name, "levelno": last.levelno, "levelname": last.levelname, "created": last.created}
        return logging.makeLogRecord({**about, "msg": text, "msecs": last.msecs, "is_about_lines": True})


class DropsLines(logging.Handler):
    """Mixed into a handler: drops what it cannot write, counts it in `dropped`, and reports that once it can again."""

    dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, and before long how many were lost."""
        before = self.dropped
        super().emit(record)
        if before and self.dropped == before:
            self.dropped = 0
            lost = f"{before} log lines before this one could not be written"
            about = {"name": record.name, "levelno": logging.WARNING, "levelname": "WARNING", "msg": lost}
            about["is_about_lines"] = True
            super().emit(logging.makeLogRecord(about))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Count the record; logging's own would print a trace."""
        self.dropped += 1


class DroppingStreamHandler(DropsLines, logging.StreamHandler[TextIO]):
    """Writes to a stream for as long as that can be written to."""


class LogHandler(DroppingStreamHandler):
    """That, and not the same line without end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._flood = Flood()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record unless it is one too many, and before it how many others were."""
        for number in self._flood.ended(record.created):
            super().emit(number)
        if self._flood.admits(record):
            super().emit(record)

    def close(self) -> None:
        """Write what is still to be written of lines that were left out."""
        for number in self._flood.ended(float("inf")):
            super().emit(number)
        super().close()


def configure(level: str, format: Format = "text") -> None:
    """Send this process's records of `level` and above to standard error, uvicorn's only from warnings on."""
    handler = LogHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # nor does any other handler print a trace
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = logging.getLogger("uvicorn.error")
    server.setLevel(logging.INFO)
    server.addFilter(_of_uvicorn)


def _of_uvicorn(record: logging.LogRecord) -> bool:
    """Warnings and worse, and the death of a worker, which is one: uvicorn tells it as information."""
    if died := _WORKER_DIED.fullmatch(record.getMessage()):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "worker process %s ended unexpectedly; another one is started", (died.group(1),)
    return record.levelno >= max(logging.WARNING, logging.getLogger().level)


def _moment(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return f"{formatter.formatTime(record, formatter.datefmt)}.{int(record.msecs):03d}Z"


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """Request and trace that this task works for; none for a line about other lines."""
    if getattr(record, "is_about_lines", False):
        return {}
    found = {"request_id": request_ids.current.get(), "trace_id": trace_id_of_now() if trace_id_of_now else ""}
    return {name: value for name, value in found.items() if value}


def _cut(text: str, most: int) -> str:
    """A text of at most `most` characters and an ellipsis: what is left out is in the middle."""
    if len(text) <= most:
        return text
    head = min(HEAD_CHARACTERS, most // 2)
    return f"{text[:head]}...{text[head - most :]}"


def _escaped(character: str) -> str:
    number = ord(character)
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )
