"""The formats of finished vectors: an array of NumPy's, or Parquet with the ids.

While an ingestion works, vectors are appended to an array in NAME.partial, whatever the format: it can be cut at the
last commit after a kill, which a Parquet file cannot. `finish` makes the finished file of it, in one step that leaves
the old one or the new one; `restore` makes it again of a finished file, to add to.
"""

import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson

from common.texts.parquet import pyarrow_module
from gateway.client.journal import CannotResume, Journal, sync_folder
from gateway.client.wire import Float32Array

HEADER_BYTES: Final = 128  # numpy pads the header so that the number of rows can grow without moving the data
FLOAT_BYTES: Final = 4
ROW_GROUP_BYTES: Final = 32 << 20  # of vectors
MAX_ROW_GROUP: Final = 1 << 16


def write_header(file: BinaryIO, rows: int, dimensions: int) -> None:
    """The .npy header of float32[rows, dimensions], at the start of the file, which is left at its end."""
    file.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == HEADER_BYTES
    file.seek(0, os.SEEK_END)


class NpyFile:
    """NAME.npy: float32[n, dimensions]."""

    suffix = ".npy"

    def check(self) -> None:
        """Nothing is needed."""

    def finish(self, partial: Path, finished: Path, ids: Path, journal: Journal) -> None:
        """Give the array its name. Raises OSError."""
        partial.replace(finished)
        sync_folder(finished.parent)

    def restore(self, finished: Path, partial: BinaryIO, journal: Journal) -> None:
        """Copy the array. Raises OSError."""
        with finished.open("rb") as file:
            shutil.copyfileobj(file, partial, 1 << 20)


class ParquetFile:
    """NAME.parquet: columns id (string), line (int64), vector (list of float32), in row groups of 32 MiB."""

    suffix = ".parquet"

    def check(self) -> None:
        """Raises SourceError where pyarrow is not installed."""
        pyarrow_module("pyarrow.parquet", "writing Parquet")

    def finish(self, partial: Path, finished: Path, ids: Path, journal: Journal) -> None:
        """Write the file beside the old one, then replace that. Raises OSError."""
        pyarrow, parquet = pyarrow_module("pyarrow", "writing Parquet"), pyarrow_module("pyarrow.parquet", "")
        draft = finished.with_name(finished.name + ".new")
        schema = _schema(pyarrow, journal)
        with draft.open("wb") as file, ids.open("rb") as id_lines, partial.open("rb") as array:
            with parquet.ParquetWriter(file, schema, compression="snappy", use_dictionary=False) as writer:
                for vectors in _row_groups(array, journal):
                    entries = [orjson.loads(line) for line in islice(id_lines, len(vectors))]
                    writer.write_table(_table(pyarrow, schema, entries, vectors), row_group_size=len(vectors))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(finished)
        sync_folder(finished.parent)

    def restore(self, finished: Path, partial: BinaryIO, journal: Journal) -> None:
        """Write the vectors as an array again. Raises CannotResume, OSError."""
        pyarrow, parquet = pyarrow_module("pyarrow", "reading Parquet"), pyarrow_module("pyarrow.parquet", "")
        rows, dimensions = journal.counts.rows, journal.origin.dimensions
        write_header(partial, rows, dimensions)
        try:
            with parquet.ParquetFile(finished) as file:
                for group in range(file.num_row_groups):
                    column = file.read_row_group(group, columns=["vector"]).column("vector").combine_chunks()
                    partial.write(np.ascontiguousarray(column.flatten().to_numpy(), dtype="<f4").tobytes())
        except pyarrow.ArrowException as error:
            raise CannotResume(f"{finished} cannot be read as Parquet any more: {error}") from None
        if partial.tell() != HEADER_BYTES + rows * dimensions * FLOAT_BYTES:
            raise CannotResume(f"{finished} does not hold the {rows:,} vectors that its journal names")


FORMATS: Final[dict[str, NpyFile | ParquetFile]] = {one.suffix: one for one in (NpyFile(), ParquetFile())}


def _schema(pyarrow: Any, journal: Journal) -> Any:
    origin = journal.origin
    fields = [
        ("id", pyarrow.string()),
        ("line", pyarrow.int64()),
        ("vector", pyarrow.list_(pyarrow.float32(), origin.dimensions)),
    ]
    return pyarrow.schema(fields, metadata={"dejavec.model": origin.model, "dejavec.fingerprint": origin.fingerprint})


def _row_groups(array: BinaryIO, journal: Journal) -> Iterator[Float32Array]:
    row_bytes = journal.origin.dimensions * FLOAT_BYTES
    most = min(max(1, ROW_GROUP_BYTES // row_bytes), MAX_ROW_GROUP)
    array.seek(HEADER_BYTES)
    for start in range(0, journal.counts.rows, most):
        content = array.read(min(most, journal.counts.rows - start) * row_bytes)
        yield np.frombuffer(content, dtype="<f4").reshape(-1, journal.origin.dimensions)


def _table(pyarrow: Any, schema: Any, entries: list[dict[str, Any]], vectors: Float32Array) -> Any:
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
    ids = pyarrow.array([str(entry["id"]) for entry in entries], pyarrow.string())
    lines = pyarrow.array([entry["line"] for entry in entries], pyarrow.int64())
    return pyarrow.Table.from_arrays([ids, lines, column], schema=schema)
