"""The log of every process: one bounded line a record on standard error, and not the same line without end.

`configure(level)` once at a process's start. A line that cannot be written (disk full, reader gone) is dropped and
counted, and never ends the process or prints a trace. What is logged, and that it is never a text or a token id, is
the callers' part; credentials in URLs are hidden here too, whoever logs them.
"""

import logging
import re
import sys
import time
from typing import TextIO

from common.credentials import shown_urls_in

MAX_RECORDS = 20  # from one line of code ...
PERIOD_S = 10.0  # ... in this time; what is held back is counted in the next one
MAX_CHARACTERS = 4000
HEAD_CHARACTERS = 1000  # of them for a long record's begin; the rest for its end, where a traceback has its error

# C0 and C1 controls, line separators, what turns the direction of writing round, and half characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


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
        moment = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z"
        message = printable(shown_urls_in(record.message).replace("\\", "\\\\").replace('"', '\\"'))
        return f'time={moment} level={record.levelname.lower()} logger={record.name} msg="{message}"'

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; only a record's first line starts at the margin, so that none can be forged."""
        line, _, traceback = super().format(record).partition("\n")
        rest = printable(shown_urls_in(traceback), keep="\n\t").replace("\n", "\n  ")
        text = f"{line}\n  {rest}" if rest else line
        if len(text) <= MAX_CHARACTERS:
            return text
        return f"{text[:HEAD_CHARACTERS]}...{text[HEAD_CHARACTERS - MAX_CHARACTERS :]}"


class Flood(logging.Filter):
    """Lets MAX_RECORDS of each logging call through in PERIOD_S, and adds to the next one how many it held back."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # place in the code -> period's start, records

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write the record."""
        place = (record.pathname, record.lineno)
        started_s, count = self._seen.get(place, (record.created, 0))
        if record.created - started_s > PERIOD_S:
            if count > MAX_RECORDS:
                record.msg = f"{record.msg} (and {count - MAX_RECORDS} like it held back)"
            started_s, count = record.created, 0
        self._seen[place] = (started_s, count + 1)
        return count < MAX_RECORDS


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
            super().emit(logging.makeLogRecord(about))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Count the record; logging's own would print a trace."""
        self.dropped += 1


class DroppingStreamHandler(DropsLines, logging.StreamHandler[TextIO]):
    """Writes to a stream for as long as that can be written to."""


def configure(level: str) -> None:
    """Send this process's records of `level` and above to standard error, uvicorn's only from warnings on."""
    handler = DroppingStreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(Flood())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.raiseExceptions = False  # nor does any other handler print a trace
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _escaped(character: str) -> str:
    number = ord(character)
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )
