"""A Parquet file as a stream of JSON Lines, one for each row, so that it is read as JSON Lines are.

Needs pyarrow, which the extra `parquet` brings. Memory: a batch of rows and what Parquet holds them in, a page of each
column; a file whose pages are huge needs as much.
"""

import importlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from common.texts.form import STANDARD_INPUT, TextForm
from common.texts.stream import BUFFER_BYTES, SourceError

ROWS_AT_ONCE: Final = 256
NOT_UTF8: Final = b'"\xff"\n'
MISSING: Final = 'needs pyarrow: .venv/bin/pip install -e ".[parquet]"'


def pyarrow_module(name: str, what: str) -> Any:
    """A module of pyarrow, imported when it is needed. Raises SourceError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SourceError(f"{what} {MISSING}") from None


class ParquetLines(io.RawIOBase):
    """The rows of a file, or of those of its columns that are wanted, as JSON Lines."""

    def __init__(self, path: Path, form: TextForm) -> None:
        super().__init__()
        if path == STANDARD_INPUT:
            raise SourceError("Parquet is read from its end, so not from standard input: name a file")
        pyarrow = pyarrow_module("pyarrow", f"{path}: reading Parquet")
        parquet = pyarrow_module("pyarrow.parquet", f"{path}: reading Parquet")
        failures = (pyarrow.ArrowException, OSError)
        try:
            self._file = parquet.ParquetFile(path, memory_map=False, pre_buffer=False)
        except failures as error:
            raise SourceError(f"{path} cannot be read as Parquet: {error}") from None
        columns = text_columns(path, self._file.schema_arrow, form, pyarrow.types)
        self.n_rows: int = self._file.metadata.num_rows
        batches = self._file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False)
        self._lines = _translated(path, json_lines(batches), failures)
        self._ahead = b""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """What is left of a row, or the next one."""
        self._ahead = self._ahead or next(self._lines, b"")
        n_bytes = min(len(buffer), len(self._ahead))
        buffer[:n_bytes], self._ahead = self._ahead[:n_bytes], self._ahead[n_bytes:]
        return n_bytes

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


def buffered(lines: ParquetLines) -> io.BufferedReader:
    """The lines, read in larger pieces."""
    return io.BufferedReader(lines, BUFFER_BYTES)


def text_columns(path: Path | str, schema: Any, form: TextForm, types: Any) -> list[str]:
    """The columns to read: that of the text and, where there is one, of the id. Raises SourceError."""
    if form.text_field not in schema.names:
        raise SourceError(f"{path} has no column {form.text_field!r}; it has {', '.join(schema.names)}")
    columns = [form.text_field]
    if form.id_field is not None and form.id_field in schema.names:
        columns.append(form.id_field)
    for name in columns:
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            continue
        if name == form.text_field or not types.is_integer(kind):
            raise SourceError(f"{path}: the column {name!r} holds {kind}, not strings")
    return columns


def json_lines(batches: Iterable[Any]) -> Iterator[bytes]:
    """A line for each row; the lines of a batch in one piece where all of it is valid."""
    for batch in batches:
        try:
            yield b"".join(orjson.dumps(row) + b"\n" for row in batch.to_pylist())
        except UnicodeDecodeError:
            yield from (_line(batch, place) for place in range(batch.num_rows))


def _line(batch: Any, place: int) -> bytes:
    try:
        return orjson.dumps(batch.slice(place, 1).to_pylist()[0]) + b"\n"
    except UnicodeDecodeError:
        return NOT_UTF8


def _translated(path: Path, lines: Iterator[bytes], failures: tuple[type[Exception], ...]) -> Iterator[bytes]:
    try:
        yield from lines
    except failures as error:
        raise SourceError(f"{path} is damaged: {error}") from None
