"""A part's vectors as one file: Parquet, or JSON Lines. Columns or fields: id, file, line, vector (float32)."""

import io
from collections.abc import Sequence

import orjson

from bulk.job import OutFormat
from common.texts import Record
from common.texts.parquet import pyarrow_module
from gateway.client.journal import Origin
from gateway.client.wire import Float32Array


def file_content(
    format: OutFormat, origin: Origin, file: str, records: Sequence[Record], vectors: Float32Array
) -> bytes:
    """The file's bytes. vectors: float32[n, dimensions], one a record. Raises SourceError without pyarrow."""
    if format is OutFormat.PARQUET:
        return _parquet(origin, file, records, vectors)
    lines = (
        orjson.dumps(
            {"id": record.id, "file": file, "line": record.line, "vector": vector}, option=orjson.OPT_SERIALIZE_NUMPY
        )
        for record, vector in zip(records, vectors, strict=True)
    )
    return b"".join(line + b"\n" for line in lines)


def _parquet(origin: Origin, file: str, records: Sequence[Record], vectors: Float32Array) -> bytes:
    pyarrow, parquet = pyarrow_module("pyarrow", "writing Parquet"), pyarrow_module("pyarrow.parquet", "")
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("file", pyarrow.string()),
            ("line", pyarrow.int64()),
            ("vector", pyarrow.list_(pyarrow.float32(), origin.dimensions)),
        ],
        metadata={"dejavec.model": origin.model, "dejavec.fingerprint": origin.fingerprint},
    )
    columns = [
        pyarrow.array([str(record.id) for record in records], pyarrow.string()),
        pyarrow.array([file] * len(records), pyarrow.string()),
        pyarrow.array([record.line for record in records], pyarrow.int64()),
        pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), origin.dimensions),
    ]
    content = io.BytesIO()
    table = pyarrow.Table.from_arrays(columns, schema=schema)
    parquet.write_table(table, content, compression="snappy", use_dictionary=["file"])
    return content.getvalue()
