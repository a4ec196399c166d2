"""Formats of text files: which one a file has, where a row keeps its text and its id, and how long it may be."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

MAX_LINE_BYTES: Final = 1 << 20
STANDARD_INPUT: Final = Path("-")
COMPRESSED_SUFFIXES: Final = (".gz", ".gzip")


class Format(StrEnum):
    """How a file holds its texts."""

    TEXT = "text"  # one a line
    JSONL = "jsonl"  # JSON Lines: objects with a text field, or bare strings
    CSV = "csv"  # a header line names the columns
    TSV = "tsv"  # the same with tabs, without quoting
    PARQUET = "parquet"


BY_SUFFIX: Final = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".parquet": Format.PARQUET,
}


@dataclass(frozen=True, slots=True)
class TextForm:
    """`id_field` None: ids are not wanted. A row whose id is missing, null or empty has its line's number."""

    format: Format
    text_field: str = "text"
    id_field: str | None = None
    max_line_bytes: int = MAX_LINE_BYTES


def form_of(
    path: Path,
    format: Format | None = None,
    *,
    default: Format = Format.TEXT,
    text_field: str = "text",
    id_field: str | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> TextForm:
    """The form of a file: `format` where one is given, else by the file's suffix, `.gz` aside, else `default`."""
    name = path.name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return TextForm(format or BY_SUFFIX.get(Path(name).suffix, default), text_field, id_field, max_line_bytes)
