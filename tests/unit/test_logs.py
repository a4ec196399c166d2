"""The log format of all processes."""

import logging
import sys

from common.logs import MAX_CHARACTERS, MAX_RECORDS, PERIOD_S, Flood, KeyValueFormatter


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
