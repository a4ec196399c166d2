"""Lines of UTF-8 to rows: JSON Lines, plain text, CSV and TSV. A row that cannot be used says why.

Lines end with LF or CRLF and with nothing else, since texts may hold other separators, such as U+2028.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

from common.text_lines import Line
from common.texts.form import Format, TextForm

UNDECODED: Final = "surrogateescape"  # what csv reads where bytes are not UTF-8, so that the row alone is at fault


class Fault(StrEnum):
    """Why a line is not used, as it is counted."""

    BLANK = "blank"
    TOO_LONG = "too long"
    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
    NOT_CSV = "not CSV"
    NO_TEXT = "no text"
    EMPTY = "empty text"
    UNUSABLE_ID = "unusable id"
    REFUSED = "refused by the gateway"


@dataclass(frozen=True, slots=True)
class Record:
    """A text to use; `line` counts from 1."""

    line: int
    id: str | int
    text: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not used, and why; one that is blank has no reason."""

    line: int
    reason: str
    fault: Fault


Row = Record | BadLine


class Unusable(Exception):
    """A row without a usable text."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


class HeaderError(Exception):
    """A table whose header has no such column."""


def rows_of_lines(lines: Iterator[Line], form: TextForm) -> Iterator[Row]:
    """A row for each line of plain text or JSON Lines."""
    parse = _plain if form.format is Format.TEXT else _json
    return (_row(line, form, parse) for line in lines)


def rows_of_table(lines: Iterator[Line], form: TextForm, header: list[str]) -> Iterator[Row]:
    """A row for each one of a CSV or TSV behind its header. Raises HeaderError."""
    if form.text_field not in header:
        raise HeaderError(f"the header names no column {form.text_field!r}; it has {', '.join(header)}")
    text_place = header.index(form.text_field)
    id_place = header.index(form.id_field) if form.id_field in header else None
    for number, cells in cells_of(lines, form):
        try:
            yield _record_of_cells(number, cells, text_place, id_place)
        except Unusable as unusable:
            yield BadLine(number, str(unusable), unusable.fault)


def header_of(lines: Iterator[Line], form: TextForm) -> list[str]:
    """The cells of the first row that is not blank; none in an empty file. Raises HeaderError."""
    for _, cells in cells_of(lines, form):
        if isinstance(cells, Unusable):
            raise HeaderError(f"the header cannot be read: {cells}")
        if cells:
            return [cell.strip() for cell in cells]
    return []


def cells_of(lines: Iterator[Line], form: TextForm) -> Iterator[tuple[int, list[str] | Unusable]]:
    """The number and the cells of each row, none for a blank one, or what is wrong with it.

    A TSV has no quoting. In a CSV a quoted cell may span lines; the row has the number of its first.
    """
    if form.format is Format.TSV:
        for line in lines:
            yield line.number, _tsv_cells(line, form.max_line_bytes)
        return
    feed = _CsvFeed(lines, form.max_line_bytes)
    csv.field_size_limit(max(csv.field_size_limit(), form.max_line_bytes))  # of the process; ours is the stricter one
    while True:
        reader = csv.reader(feed, strict=True)
        try:
            for cells in reader:
                yield feed.first, cells
                feed.begin_row()
            return
        except csv.Error as error:
            yield feed.first, Unusable(Fault.NOT_CSV, f"not CSV: {error}{feed.extent}")
        except Unusable as unusable:
            yield feed.first, unusable
        feed.begin_row()


class _CsvFeed:
    """Gives csv's reader one line after another, as it asks for them, and no more than the limit for one row."""

    def __init__(self, lines: Iterator[Line], max_row_bytes: int) -> None:
        self._lines = lines
        self._max_row_bytes = max_row_bytes
        self.begin_row()

    def begin_row(self) -> None:
        """The next line begins a row."""
        self.first = self._last = self._n_bytes = 0

    @property
    def extent(self) -> str:
        """Which lines the row has taken, where it is more than one."""
        return f" (lines {self.first} to {self._last})" if self._last > self.first else ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.first, self._last = self.first or line.number, line.number
        self._n_bytes += len(line.content or b"")
        if line.content is None or self._n_bytes > self._max_row_bytes + len(b"\r\n"):
            raise Unusable(Fault.TOO_LONG, too_long(self._max_row_bytes) + self.extent)
        return line.content.decode(errors=UNDECODED)


def _tsv_cells(line: Line, max_line_bytes: int) -> list[str] | Unusable:
    if line.content is None:
        return Unusable(Fault.TOO_LONG, too_long(max_line_bytes))
    if not line.content.strip():
        return []
    return line.content.decode(errors=UNDECODED).rstrip("\r\n").split("\t")


def _record_of_cells(number: int, cells: list[str] | Unusable, text_place: int, id_place: int | None) -> Record:
    if isinstance(cells, Unusable):
        raise cells
    if not any(cell.strip() for cell in cells):
        raise Unusable(Fault.BLANK, "")
    needed = max(text_place, id_place or 0) + 1
    if len(cells) < needed:
        raise Unusable(Fault.NO_TEXT, f"{len(cells)} columns, {needed} are needed")
    name = cells[id_place] if id_place is not None else ""
    for cell in (cells[text_place], name):
        if not cell.isascii():
            _require_utf8(cell.encode(errors=UNDECODED))
    return _record(number, name or None, cells[text_place], f"in the column {text_place + 1}")


def _row(line: Line, form: TextForm, parse: Callable[[int, bytes, TextForm], Record]) -> Row:
    if line.content is None:
        return BadLine(line.number, too_long(form.max_line_bytes), Fault.TOO_LONG)
    if not line.content.strip():
        return BadLine(line.number, "", Fault.BLANK)
    try:
        return parse(line.number, line.content, form)
    except Unusable as unusable:
        return BadLine(line.number, str(unusable), unusable.fault)


def _plain(number: int, content: bytes, form: TextForm) -> Record:
    return _record(number, None, _require_utf8(content).strip(), "on the line")


def _json(number: int, content: bytes, form: TextForm) -> Record:
    try:
        entry = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        _require_utf8(content)
        raise Unusable(Fault.NOT_JSON, f"not JSON: {error}") from None
    if isinstance(entry, str):
        return _record(number, None, entry, "on the line")
    if not isinstance(entry, dict):
        raise Unusable(Fault.NO_TEXT, "not a JSON object, nor a string")
    text = entry.get(form.text_field)
    if text is None:
        raise Unusable(Fault.NO_TEXT, f"no text: the field {form.text_field!r} is missing or null")
    if not isinstance(text, str):
        raise Unusable(Fault.NO_TEXT, f"no text: the field {form.text_field!r} is not a string")
    name = entry.get(form.id_field) if form.id_field is not None else None
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise Unusable(Fault.UNUSABLE_ID, f"the id in {form.id_field!r} is neither a string nor a 64-bit whole number")
    return _record(number, name, text, f"in the field {form.text_field!r}")


def _record(number: int, name: str | int | None, text: str, where: str) -> Record:
    if not text.strip():
        raise Unusable(Fault.EMPTY, f"empty text {where}")
    return Record(number, number if name is None else name, text)


def _require_utf8(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Unusable(Fault.NOT_UTF8, f"not UTF-8: {error.reason} at byte {error.start + 1}") from None


def too_long(max_line_bytes: int) -> str:
    """The reason of a line beyond the limit."""
    return f"too long: more than {max_line_bytes:,} bytes"
