"""Reading texts from files: one a line, JSON Lines with a text field, or tab-separated columns with a header line.

    for line in read_texts(path):                   # .jsonl and .ndjson hold JSON, anything else plain text
        line.text or line.fault
    for number, (query_id, text) in read_columns(path, ["query_id", "text"]): ...
    for line in read_lines(file, offset=...): ...   # bytes, with the offset to go on from; long lines are passed over

UTF-8; lines end with LF or CRLF and with nothing else, since texts may hold other separators, such as U+2028. A byte
order mark at the start is dropped. Files are read a line at a time. OSError is the caller's to translate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
SKIP_PIECE_BYTES = 1 << 20


class LineError(ValueError):
    """A line that does not hold what it should; the message has the reason, and the line where it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number from 1, where the next one starts, its bytes with the newline or None beyond the limit."""

    number: int
    end: int
    content: bytes | None


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line's text; empty where the line is blank, or where `fault` is the reason that it has none."""

    number: int
    text: str
    fault: str = ""


def read_lines(
    file: BinaryIO, *, offset: int = 0, number: int = 0, size: int | None = None, max_line_bytes: int | None = None
) -> Iterator[Line]:
    """The lines of an open file from `offset` on, behind `number` lines, up to its first `size` bytes.

    One that cannot seek, such as a pipe, is read from where it is, with an `offset` of 0.
    """
    if offset or file.seekable():
        file.seek(offset)
    while size is None or offset < size:
        left = -1 if size is None else size - offset
        n_bytes, content = _read_line(file, max_line_bytes, left)
        if n_bytes == 0:
            return
        offset, number = offset + n_bytes, number + 1
        if number == 1 and content is not None:
            content = content.removeprefix(BYTE_ORDER_MARK)
        yield Line(number, offset, content)


def read_texts(path: Path, field: str = "text") -> Iterator[TextLine]:
    """Every line of a file, blank and broken ones too. Raises OSError."""
    is_json = path.suffix.lower() in JSON_LINES_SUFFIXES
    for number, content in _contents(path):
        try:
            if not is_json:
                yield TextLine(number, content.decode().strip())
            elif content.strip():
                yield TextLine(number, text_in(json_object(content), field))
            else:
                yield TextLine(number, "")
        except UnicodeDecodeError as error:
            yield TextLine(number, "", f"not UTF-8: {error}")
        except LineError as error:
            yield TextLine(number, "", str(error))


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Line number and JSON object of each line that is not blank. Raises LineError, OSError."""
    for number, content in _contents(path):
        if content.strip():
            try:
                yield number, json_object(content)
            except LineError as error:
                raise LineError(str(error), number) from None


def read_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and tab-separated cells of each line that is not blank. Raises UnicodeDecodeError, OSError."""
    for number, content in _contents(path):
        if content.strip():
            yield number, content.decode().rstrip("\r\n").split("\t")


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the named columns of each row behind the header. Raises as `read_cells`, and LineError."""
    rows = read_cells(path)
    first, header = next(rows, (1, [""]))
    if missing := [column for column in columns if column not in header]:
        raise LineError(f"the header names no column {', '.join(missing)}; it has {', '.join(header)}", first)
    places = [header.index(column) for column in columns]
    for number, cells in rows:
        if len(cells) <= max(places):
            raise LineError(f"{len(cells)} columns, {max(places) + 1} are needed", number)
        yield number, [cells[place] for place in places]


def json_object(content: bytes) -> dict[str, object]:
    """The JSON object that a line holds. Raises LineError."""
    try:
        entry = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise LineError(f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise LineError("not a JSON object")
    return entry


def text_in(entry: dict[str, object], field: str) -> str:
    """The string under `field`. Raises LineError."""
    text = entry.get(field)
    if text is None:
        raise LineError(f"no text: the field {field!r} is missing or null")
    if not isinstance(text, str):
        raise LineError(f"no text: the field {field!r} is not a string")
    return text


def _contents(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for line in read_lines(file):
            assert line.content is not None  # there is no limit
            yield line.number, line.content


def _read_line(file: BinaryIO, limit: int | None, left: int) -> tuple[int, bytes | None]:
    """Bytes read up to and with the next newline, at most `left` (-1: all); the line, None when longer than `limit`."""
    if limit is None:
        line = file.readline(left)
        return len(line), line
    line = file.readline(limit + 1 if left < 0 else min(limit + 1, left))
    if len(line) <= limit or line.endswith(b"\n"):
        return len(line), line
    n_bytes = len(line)
    while line and not line.endswith(b"\n") and n_bytes != left:
        line = file.readline(SKIP_PIECE_BYTES if left < 0 else min(SKIP_PIECE_BYTES, left - n_bytes))
        n_bytes += len(line)
    return n_bytes, None
