"""The texts a load test sends: one a line, JSON Lines or TSV, from a file of the user's or the package's own."""

from collections.abc import Iterator
from pathlib import Path

from common import text_lines

DEFAULT_FILE = "texts.txt"  # a small file of the project's own, beside this module


class TextsError(Exception):
    """A file without usable texts; the message names the file, the line and what was expected."""


def read_texts(path: Path | None, field: str = "text", limit: int | None = None) -> list[str]:
    """Texts of a file in its order, blank lines left out, at most `limit`; the package's own file for None.

    `.jsonl`: the string under `field` of each object. `.tsv`: the column named `field` in the header line.
    Anything else: one text a line. Raises TextsError.
    """
    path = path or Path(__file__).with_name(DEFAULT_FILE)
    texts = []
    try:
        for text in _column(path, field) if path.suffix == ".tsv" else _texts(path, field):
            if text.strip():
                texts.append(text)
            if limit is not None and len(texts) >= limit:
                break
    except text_lines.LineError as error:
        raise TextsError(f"{path}, {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"{path} cannot be read as UTF-8 text: {error}") from None
    if not texts:
        raise TextsError(f"{path} holds no texts")
    return texts


def _texts(path: Path, field: str) -> Iterator[str]:
    for line in text_lines.read_texts(path, field):
        if line.fault:
            raise text_lines.LineError(line.fault, line.number)
        yield line.text


def _column(path: Path, name: str) -> Iterator[str]:
    return (text for _, [text] in text_lines.read_columns(path, [name]))
