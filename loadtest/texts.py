"""Reading the texts a load test asks for: plain lines, JSONL or TSV. Knows nothing of their use."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

DEFAULT_FILE = "texts.txt"  # a small file of the project's own, beside this module


class TextsError(Exception):
    """A file without usable texts; the message names the file, the line and what was expected."""


def read_texts(path: Path | None, field: str = "text", limit: int | None = None) -> list[str]:
    """Texts of a file in its order, blank lines left out, at most `limit`; the package's own file for None.

    `.jsonl`: the string under `field` of each object. `.tsv`: the column named `field` in the header line.
    Anything else: one text a line. Raises TextsError.
    """
    if path is None:
        source, suffix = files("loadtest").joinpath(DEFAULT_FILE).read_text(encoding="utf-8"), ".txt"
    else:
        source, suffix = _read(path), path.suffix
    lines = source.split("\n")  # not splitlines: texts may hold other separators, such as U+2028
    name = str(path or DEFAULT_FILE)
    readers = {".jsonl": _jsonl, ".tsv": _tsv}
    found = readers[suffix](lines, field, name) if suffix in readers else (line.strip() for line in lines)
    texts = []
    for text in found:
        if text.strip():
            texts.append(text)
        if limit is not None and len(texts) >= limit:
            break
    if not texts:
        raise TextsError(f"{name} holds no texts")
    return texts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TextsError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _jsonl(lines: list[str], field: str, name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, KeyError, TypeError, IndexError):
            raise TextsError(f"{name}, line {number}: expected a JSON object with the field {field!r}") from None
        if not isinstance(text, str):
            raise TextsError(f"{name}, line {number}: the field {field!r} is not a string")
        yield text


def _tsv(lines: list[str], field: str, name: str) -> Iterator[str]:
    header = lines[0].rstrip("\r").split("\t")
    if field not in header:
        raise TextsError(f"{name}: no column {field!r} in its header; it has {', '.join(header)}")
    column = header.index(field)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) <= column:
            raise TextsError(f"{name}, line {number}: fewer columns than the header names")
        yield cells[column]
