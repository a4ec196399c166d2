"""Files to parts, and parts to records.

    cut = cut_file(file, part_texts=8192)         # reads the file once
    records, bad, blank = read_part(file.url, cut.parts[0], form)

A part is a run of lines of JSON Lines, or of rows of one row group of Parquet: at most `part_texts` of them and, of
lines, PART_BYTES. Where a file is cut depends on its content alone, so that any run finds the same parts. Each part
knows its first line's number, and the hash of its bytes, so that a file that changes under way is noticed.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from bulk.sources import SourceFile, open_file
from common.text_lines import Line, read_lines
from common.texts import BadLine, Fault, Format, InputChanged, Record, TextForm
from common.texts.parquet import ROWS_AT_ONCE, json_lines, pyarrow_module, text_columns
from common.texts.rows import rows_of_lines
from common.texts.stream import GZIP, OTHERS, UTF_16, UTF_32, SourceError

PART_BYTES: Final = 8 << 20
PIECE_BYTES: Final = 1 << 20
DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a file: bytes `start` to `start + size`, or of row group `group` that many rows.

    `line`: lines of the file before it. `digest`: of its bytes, of JSON Lines alone.
    """

    start: int
    size: int
    line: int
    group: int = -1
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A file's parts, and the hash of all its bytes."""

    digest: str
    parts: list[Part]


def cut_file(file: SourceFile, part_texts: int) -> Cut:
    """Read a file once and cut it. Raises SourceError, OSError."""
    with open_file(file.url) as opened:
        if file.format is Format.PARQUET:
            parts = _row_ranges(file.url, opened, part_texts)
            opened.seek(0)
            digest = _hash()
            while piece := opened.read(PIECE_BYTES):
                digest.update(piece)
            return Cut(digest.hexdigest(), parts)
        return _cut_lines(file.url, opened, part_texts)


def read_part(url: str, part: Part, form: TextForm) -> tuple[list[Record], list[BadLine], int]:
    """A part's records, its lines that cannot be used, and how many are blank.

    Raises InputChanged where the part is not what it was when it was cut; SourceError, OSError.
    """
    records: list[Record] = []
    bad: list[BadLine] = []
    blank = 0
    with open_file(url) as file:
        lines = _parquet_lines(url, file, part, form) if part.group >= 0 else _lines(url, file, part, form)
        for row in rows_of_lines(lines, form):
            if isinstance(row, Record):
                records.append(row)
            elif row.fault is Fault.BLANK:
                blank += 1
            else:
                bad.append(row)
    return records, bad, blank


def _cut_lines(url: str, file: BinaryIO, part_texts: int) -> Cut:
    whole, digest = _hash(), _hash()
    parts: list[Part] = []
    start = size = line = lines = 0
    while piece := file.readline(PIECE_BYTES):
        if not start and not size:
            _require_plain(url, piece)
        whole.update(piece)
        digest.update(piece)
        size += len(piece)
        if not piece.endswith(b"\n"):
            continue
        lines += 1
        if lines >= part_texts or size >= PART_BYTES:
            parts.append(Part(start, size, line, digest=digest.hexdigest()))
            start, line = start + size, line + lines
            size, lines, digest = 0, 0, _hash()
    if size:
        parts.append(Part(start, size, line, digest=digest.hexdigest()))
    return Cut(whole.hexdigest(), parts)


def _require_plain(url: str, head: bytes) -> None:
    """Raise SourceError where lines cannot be found without reading all that is before them."""
    if head.startswith(GZIP):
        raise SourceError(f"{url} is compressed with gzip, which cannot be read in parts: unpack it, or use Parquet")
    for sign, remedy in OTHERS.items():
        if head.startswith(sign):
            raise SourceError(f"{url} {remedy}")
    if head.startswith((*UTF_16, *UTF_32)):
        raise SourceError(f"{url} is not UTF-8: convert it, as in `iconv -f UTF-16 -t UTF-8`")


def _row_ranges(url: str, file: BinaryIO, part_texts: int) -> list[Part]:
    pyarrow, parquet = pyarrow_module("pyarrow", url), pyarrow_module("pyarrow.parquet", url)
    try:
        metadata = parquet.ParquetFile(file).metadata
    except pyarrow.ArrowException as error:
        raise SourceError(f"{url} cannot be read as Parquet: {error}") from None
    parts: list[Part] = []
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        parts += [
            Part(start, min(part_texts, rows - start), before + start, group) for start in range(0, rows, part_texts)
        ]
        before += rows
    return parts


def _lines(url: str, file: BinaryIO, part: Part, form: TextForm) -> Iterator[Line]:
    file.seek(part.start)
    window = _Window(file, part.size)
    yield from read_lines(window, number=part.line, max_line_bytes=form.max_line_bytes)
    if window.left or window.digest.hexdigest() != part.digest:
        raise InputChanged(f"{url} has changed since it was cut into parts")


def _parquet_lines(url: str, file: BinaryIO, part: Part, form: TextForm) -> Iterator[Line]:
    pyarrow, parquet = pyarrow_module("pyarrow", url), pyarrow_module("pyarrow.parquet", url)
    try:
        table = parquet.ParquetFile(file, pre_buffer=False)
        columns = text_columns(url, table.schema_arrow, form, pyarrow.types)
        rows = table.read_row_group(part.group, columns=columns, use_threads=False).slice(part.start, part.size)
        content = io.BytesIO(b"".join(json_lines(rows.to_batches(max_chunksize=ROWS_AT_ONCE))))
    except pyarrow.ArrowException as error:
        raise SourceError(f"{url} is damaged: {error}") from None
    yield from read_lines(content, number=part.line, max_line_bytes=form.max_line_bytes)


class _Window:
    """The next `left` bytes of a file, and nothing behind them; hashed."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file = file
        self.left = left
        self.digest = _hash()

    def readline(self, size: int, /) -> bytes:
        piece = self._file.readline(self.left if size < 0 else min(size, self.left))
        self.left -= len(piece)
        self.digest.update(piece)
        return piece


def _hash() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=DIGEST_BYTES)
