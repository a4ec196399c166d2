"""JSONL in, chunks of texts out, and where in the file each chunk ends. One line in memory at a time, plus the chunk.

What cannot be embedded (not JSON, no text, empty text, too long) becomes a `BadLine` with its reason; blank lines are
skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from common.text_lines import LineError, json_object, read_lines, text_in


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
    records: list[Record] = []
    bad: list[BadLine] = []
    begun_at = start.offset
    lines = read_lines(file, offset=start.offset, number=start.line, size=size, max_line_bytes=form.max_line_bytes)
    for line in lines:
        match _parse(line.content, line.number, form):
            case Record() as record:
                records.append(record)
            case BadLine() as fault:
                bad.append(fault)
        if len(records) >= max_texts or line.end - begun_at >= max_bytes or line.end >= size:
            yield Chunk(records, bad, Position(line.end, line.number))
            records, bad, begun_at = [], [], line.end


def _parse(content: bytes | None, line: int, form: LineFormat) -> Record | BadLine | None:
    """What a line holds; None for a blank one."""
    if content is None:
        return BadLine(line, f"too long: more than {form.max_line_bytes:,} bytes")
    if not content.strip():
        return None
    try:
        return _record(json_object(content), line, form)
    except LineError as error:
        return BadLine(line, str(error))


def _record(entry: dict[str, object], line: int, form: LineFormat) -> Record:
    """The record of an entry. Raises LineError."""
    text = text_in(entry, form.text_field)
    if not text.strip():
        raise LineError(f"empty text in the field {form.text_field!r}")
    name = entry.get(form.id_field)
    if name is None:
        return Record(line, line, text)
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise LineError(f"the id in {form.id_field!r} is neither a string nor a 64-bit whole number")
    return Record(line, name, text)
