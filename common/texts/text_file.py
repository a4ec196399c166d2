"""The rows of a text file, with a position from which a later run can go on; and all texts of some files at once."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from common.text_lines import Line, read_lines
from common.texts.form import STANDARD_INPUT, Format, TextForm
from common.texts.parquet import ParquetLines, buffered
from common.texts.rows import HeaderError, Record, Row, header_of, rows_of_lines, rows_of_table
from common.texts.stream import Peeked, SourceError, open_raw, size_of, utf8_stream
from common.texts.tally import BadLines, Tally

BLOCK_BYTES: Final = 1 << 20
MAX_HELD_CHARACTERS: Final = 1 << 29  # of all texts of a command that holds them at once
TABLES: Final = (Format.CSV, Format.TSV)
DAMAGE: Final = (EOFError, zlib.error, gzip.BadGzipFile)


class InputChanged(Exception):
    """A file is not the one that was read before; the message says where it differs."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has been read, whole rows only: bytes of its content as UTF-8, their hash, and lines."""

    offset: int = 0
    line: int = 0
    sha256: str = hashlib.sha256().hexdigest()


class _Counted:
    """Counts and hashes what is read."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.offset = 0
        self.last = b""

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(size))

    def readline(self, size: int) -> bytes:
        return self._counted(self._stream.readline(size))

    def at_end(self) -> bool:
        return not self._stream.peek(1)

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _counted(self, content: bytes) -> bytes:
        self._hash.update(content)
        self.offset += len(content)
        self.last = content[-1:] or self.last
        return content


class TextFile:
    """A text file, `-` for standard input. Use as a context manager; opening raises SourceError and OSError."""

    def __init__(self, path: Path, form: TextForm) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else str(path)
        self.form = form
        self._path = path
        self._stack = ExitStack()
        self._line = 0
        self._header: list[str] = []
        self._file: io.FileIO | None = None
        self._raw: Peeked | None = None
        self._n_rows: int | None = None

    def __enter__(self) -> Self:
        with self._stack, self._translated():
            self._content = _Counted(self._opened())
            if self.form.format in TABLES:
                self._header = header_of(self._lines(), self.form)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def may_wait(self) -> bool:
        """Whether reading may have to wait for whoever writes: a pipe, a terminal."""
        return self._file is not None and size_of(self._file) is None

    @property
    def offset(self) -> int:
        """Bytes of content read so far, as UTF-8."""
        return self._content.offset

    @property
    def position(self) -> Position:
        """Behind the last row that was read."""
        return Position(self._content.offset, self._line, self._content.sha256())

    def rows(self) -> Iterator[Row]:
        """What is left of the file, row by row. Raises SourceError, OSError."""
        with self._translated():
            if self.form.format not in TABLES:
                yield from rows_of_lines(self._lines(), self.form)
            elif self._header:
                yield from rows_of_table(self._lines(), self.form, self._header)

    def skip_to(self, position: Position) -> None:
        """Read what an earlier run has read. Raises InputChanged where it is not the same; SourceError, OSError."""
        if not position.offset:  # nothing was read; here a header may have been
            return
        with self._translated():
            while self._content.offset < position.offset:
                if not self._content.read(min(BLOCK_BYTES, position.offset - self._content.offset)):
                    break
            if self._content.sha256() != position.sha256:
                raise InputChanged(
                    f"the input is another one: its first {position.line:,} lines, {position.offset:,} bytes of "
                    f"text, are not those that were read before"
                )
            self._line = position.line
            if self._content.last not in (b"", b"\n") and not self._content.at_end():
                self._end_line()

    def at_end(self) -> bool:
        """Whether nothing is left. Raises SourceError, OSError."""
        with self._translated():
            return self._content.at_end()

    def require_whole(self) -> None:
        """Raise InputChanged where the file has become shorter than what was read of it."""
        if self._raw is not None and self._file is not None:
            size = size_of(self._file)
            if size is not None and size < self._raw.n_read:
                raise InputChanged(f"{self.name} has become shorter while it was read")

    def share_read(self, position: Position) -> float | None:
        """How much of the file lies before `position`, from 0 to 1; None where that is unknown."""
        if self._n_rows is not None:
            return position.line / max(self._n_rows, 1)
        size = None if self._file is None else size_of(self._file)
        if size is None or self._raw is None:
            return None
        # Of a file that was not converted, the position; else what was read of it, somewhat ahead of the rows.
        done = position.offset if self._is_plain else self._raw.n_read
        return min(done / max(size, 1), 1.0)

    def _opened(self) -> io.BufferedReader:
        if self.form.format is Format.PARQUET:
            lines = ParquetLines(self._path, self.form)
            self._stack.callback(lines.close)
            self._n_rows = lines.n_rows
            return buffered(lines)
        self._file = self._stack.enter_context(open_raw(self._path))
        self._raw = Peeked(self._file.readinto)
        stream = utf8_stream(self._raw, self.name)
        self._is_plain = stream.raw is self._raw
        return stream

    def _lines(self) -> Iterator[Line]:
        for line in read_lines(self._content, number=self._line, max_line_bytes=self.form.max_line_bytes):
            self._line = line.number
            yield line

    def _end_line(self) -> None:
        """Pass over the newline that the last line did not have when it was read. Raises InputChanged."""
        end = self._content.read(1)
        if end == b"\r":
            end = self._content.read(1)
        if end not in (b"", b"\n"):
            raise InputChanged(
                f"the input is another one: line {self._line:,} was its last, without a newline, and has become longer"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            raise SourceError(f"{self.name} is damaged behind line {self._line:,}: {error}") from None
        except HeaderError as error:
            raise SourceError(f"{self.name}: {error}") from None


@dataclass(slots=True)
class Texts:
    """All texts of some files in their order. `was_cut`: there are more than the limit allows."""

    texts: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    was_cut: bool = False


def read_all(
    paths: Iterable[Path],
    form: Callable[[Path], TextForm],
    *,
    limit: int,
    bad_lines: BadLines | None = None,
    max_characters: int = MAX_HELD_CHARACTERS,
) -> Texts:
    """The first `limit` texts of the files, and no more than `max_characters` of them. Raises SourceError, OSError."""
    paths = list(paths)
    taken, left = Texts(), max_characters
    for path in paths:
        with TextFile(path, form(path)) as file:
            source = file.name if len(paths) > 1 else ""
            for row in file.rows():
                if isinstance(row, Record):
                    left -= len(row.text)
                    if len(taken.texts) == limit or left < 0:
                        taken.was_cut = True
                        return taken
                    taken.texts.append(row.text)
                elif bad_lines is not None:
                    bad_lines.add(row, source)
                taken.tally.add(row, source)
    return taken
