"""The log of every process: one bounded line a record on standard error, and not the same line without end.

`configure(level)` once at a process's start. What is logged, and that it is never a text or a token id, is the
callers' part.
"""

import logging
import sys
import time

MAX_RECORDS = 20  # from one line of code ...
PERIOD_S = 10.0  # ... in this time; what is held back is counted in the next one
MAX_CHARACTERS = 4000
HEAD_CHARACTERS = 1000  # of them for a long record's begin; the rest for its end, where a traceback has its error


class KeyValueFormatter(logging.Formatter):
    """`time=... level=... logger=... msg="..."`, and a traceback behind it, together at most MAX_CHARACTERS."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """The record's line, without what follows it."""
        moment = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z"
        message = record.message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'time={moment} level={record.levelname.lower()} logger={record.name} msg="{message}"'

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = super().format(record)
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


def configure(level: str) -> None:
    """Send this process's records of `level` and above to standard error, uvicorn's only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    handler.addFilter(Flood())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
