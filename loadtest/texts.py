"""The texts a load test sends: those of a file of the user's, or of the package's own."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

from common.texts import BadLines, Format, Record, SourceError, TextFile, Texts, form_of, read_all

DEFAULT_FILE = "texts.txt"  # a small file of the project's own, beside this module
DEFAULT_NAME = "the package's own"  # as it is shown: a file of that name may be the user's
MAX_TEXTS = 1_000_000  # held in memory


class TextsError(Exception):
    """A file without usable texts; the message names the file, the reason, and how many lines have it."""


def read_texts(path: Path | None, field: str = "text", limit: int = MAX_TEXTS) -> list[str]:
    """The texts of `read_lines`, for whom the count of the others does not matter. Raises TextsError."""
    return read_lines(path, field=field, limit=limit).texts


def read_lines(
    path: Path | None,
    *,
    format: Format | None = None,
    field: str = "text",
    limit: int = MAX_TEXTS,
    bad_lines_file: Path | None = None,
) -> Texts:
    """Texts of a file in its order, at most `limit`, and what became of its lines; the package's own file for None.

    Raises TextsError where the file cannot be read or holds no usable text.
    """
    path = path or Path(__file__).with_name(DEFAULT_FILE)
    try:
        with BadLines(bad_lines_file) as bad_lines:
            taken = read_all(
                [path], partial(form_of, format=format, text_field=field), limit=limit, bad_lines=bad_lines
            )
    except OSError as error:
        raise TextsError(str(error)) from None
    if not taken.texts:
        raise TextsError(f"{path} holds no usable text: {taken.tally}")
    return taken


@dataclass(frozen=True, slots=True)
class Companions:
    """Texts, and of each what another field or column of its row holds."""

    texts: list[str]
    values: list[str]


def read_companions(path: Path, field: str, other: str, format: Format | None = None) -> Companions:
    """Rows that have both fields, at most MAX_TEXTS, strings or whole numbers. Raises TextsError."""
    found = Companions([], [])
    form = form_of(path, format, text_field=field, id_field=other)
    if form.format is Format.TEXT:
        raise TextsError(
            f"{path} is taken for one text a line, with no {other!r} beside it: it has to be JSON Lines, CSV, TSV or "
            "Parquet, by its suffix or --format"
        )
    try:
        with TextFile(path, form) as file:
            for row in file.rows():
                if not isinstance(row, Record) or row.id == "":
                    continue
                if row.id == row.line:  # what the reader puts where there is none
                    raise TextsError(
                        f"{path}, line {row.line}: no {other!r} (and the number {row.line} in this line is taken for "
                        f'none: write it as text, "{row.line}")'
                    )
                found.texts.append(row.text)
                found.values.append(str(row.id))
                if len(found.texts) == MAX_TEXTS:
                    break
    except (OSError, SourceError) as error:
        raise TextsError(str(error)) from None
    if not found.texts:
        raise TextsError(f"{path} has no line with both {field!r} and {other!r}")
    return found


def read_pairs(path: Path, field: str, other: str, format: Format | None = None) -> list[tuple[str, str]]:
    """Pairs of texts that mean the same, by the file's word. Raises TextsError."""
    read = read_companions(path, field, other, format)
    return list(zip(read.texts, read.values, strict=True))


def read_times(path: Path, field: str, other: str, format: Format | None = None) -> tuple[list[float], list[str]]:
    """Times in seconds, rising, and the texts sent then. Raises TextsError."""
    read = read_companions(path, field, other, format)
    times = [seconds_of(value, path, other) for value in read.values]
    for earlier, later in pairwise(times):
        if later < earlier:
            raise TextsError(f"{path}: the times in {other!r} do not rise: sort the file by them")
    return times, read.texts


def seconds_of(value: str, path: Path, name: str) -> float:
    """Seconds of a number, in milliseconds where it is above 1e11, or of an ISO 8601 time. Raises TextsError."""
    try:
        number = float(value)
        if math.isfinite(number):
            return number / 1000 if number > 1e11 else number
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise TextsError(
            f"{path}: {value[:40]!r} in {name!r} is no time: seconds, milliseconds of the epoch, or ISO 8601"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
