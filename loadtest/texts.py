"""The texts a load test sends: those of a file of the user's, or of the package's own."""

from functools import partial
from pathlib import Path

from common.texts import BadLines, Format, Texts, form_of, read_all

DEFAULT_FILE = "texts.txt"  # a small file of the project's own, beside this module
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
