"""JSONL in, chunks of texts out, and where in the file each chunk ends. One line in memory at a time, plus the chunk.

What cannot be embedded (not JSON, no text, empty text, too long) becomes a `BadLine` with its reason; blank lines are
skipped. Knows nothing of gateways.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import orjson

UTF8_BOM = b"\xef\xbb\xbf"
SKIP_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LineFormat:
    """Where a line keeps its text and its id, and how long it may be. A missing or null id is the line's number."""

    text_field: str = "text"
    id_field: str = "id"
    max_line_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """A line to embed; `line` counts from 1."""

    line: int
    id: str | int
    text: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line set aside, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Position:
    """How far the file has been read: whole lines only."""

    offset: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of the file, bad ones included; `end` is where the next chunk starts."""

    records: list[Record]
    bad: list[BadLine]
    end: Position


def read_chunks(
    file: BinaryIO, start: Position, size: int, form: LineFormat, *, max_texts: int, max_bytes: int
) -> Iterator[Chunk]:
    """The first `size` bytes of the file from `start` on, in chunks of at most `max_texts` texts.

    A chunk also ends once its lines hold `max_bytes` or more. `file` is at any position; only this generator reads it.
    """
    file.seek(start.offset)
    position = start
    while position.offset < size:
        records: list[Record] = []
        bad: list[BadLine] = []
        begun_at = position.offset
        while position.offset < size and len(records) < max_texts and position.offset - begun_at < max_bytes:
            read_bytes, content = _read_line(file, form.max_line_bytes, size - position.offset)
            if read_bytes == 0:  # the file is shorter than it was
                return
            position = Position(position.offset + read_bytes, position.line + 1)
            match _parse(content, position.line, form):
                case Record() as record:
                    records.append(record)
                case BadLine() as fault:
                    bad.append(fault)
        yield Chunk(records, bad, position)


def _read_line(file: BinaryIO, limit: int, left: int) -> tuple[int, bytes | None]:
    """Bytes read up to and with the next newline, at most `left`; and the line, None when longer than `limit`."""
    line = file.readline(min(limit + 1, left))
    if len(line) <= limit or line.endswith(b"\n"):
        return len(line), line
    read_bytes = len(line)
    while line and not line.endswith(b"\n") and read_bytes < left:
        line = file.readline(min(SKIP_PIECE_BYTES, left - read_bytes))
        read_bytes += len(line)
    return read_bytes, None


def _parse(content: bytes | None, line: int, form: LineFormat) -> Record | BadLine | None:
    """What a line holds; None for a blank one."""
    if content is None:
        return BadLine(line, f"too long: more than {form.max_line_bytes:,} bytes")
    if line == 1:
        content = content.removeprefix(UTF8_BOM)
    if not content.strip():
        return None
    try:
        entry = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        return BadLine(line, f"not JSON: {error}")
    if not isinstance(entry, dict):
        return BadLine(line, "not a JSON object")
    return _record(entry, line, form)


def _record(entry: dict[str, object], line: int, form: LineFormat) -> Record | BadLine:
    text = entry.get(form.text_field)
    if text is None:
        return BadLine(line, f"no text: the field {form.text_field!r} is missing or null")
    if not isinstance(text, str):
        return BadLine(line, f"no text: the field {form.text_field!r} is not a string")
    if not text.strip():
        return BadLine(line, f"empty text in the field {form.text_field!r}")
    name = entry.get(form.id_field)
    if name is None:
        return Record(line, line, text)
    if isinstance(name, bool) or not isinstance(name, str | int):
        return BadLine(line, f"the id in {form.id_field!r} is neither a string nor a 64-bit whole number")
    return Record(line, name, text)
