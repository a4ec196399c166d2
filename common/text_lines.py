"""Lines of a file, and tables of them: JSON objects, or tab-separated columns with a header line.

    for number, (query_id, text) in read_columns(path, ["query_id", "text"]): ...
    for line in read_lines(file, max_line_bytes=...): ...   # bytes; long lines are passed over

UTF-8; lines end with LF or CRLF and with nothing else, since texts may hold other separators, such as U+2028. A byte
order mark at the start is dropped. Files are read a line at a time. OSError is the caller's to translate. Texts that
people bring are read by `common.texts`, which goes on behind a line that is broken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SKIP_PIECE_BYTES = 1 << 20


class LineError(ValueError):
    """A line that does not hold what it should; the message has the reason, and the line where it is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")


class LineStream(Protocol):
    """What lines are read from."""

    def readline(self, size: int, /) -> bytes:
        """Up to `size` bytes, all where it is -1, and no further than the next newline."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number from 1, its bytes with the newline, or None beyond the limit."""

    number: int
    content: bytes | None


def read_lines(file: LineStream, *, number: int = 0, max_line_bytes: int | None = None) -> Iterator[Line]:
    """The lines of an open file from where it is, behind `number` lines. The limit is without the newline."""
    while True:
        content = file.readline(-1 if max_line_bytes is None else max_line_bytes + 1)
        if not content:
            return
        number += 1
        if max_line_bytes is not None and len(content) > max_line_bytes and not content.endswith(b"\n"):
            _pass_over(file)
            yield Line(number, None)
        else:
            yield Line(number, content.removeprefix(BYTE_ORDER_MARK) if number == 1 else content)


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


def _contents(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for line in read_lines(file):
            assert line.content is not None  # there is no limit
            yield line.number, line.content


def _pass_over(file: LineStream) -> None:
    """Read to the end of the line, keeping nothing."""
    while (piece := file.readline(SKIP_PIECE_BYTES)) and not piece.endswith(b"\n"):
        pass
