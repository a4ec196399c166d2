"""The data files a bundle is verified on: sentence pairs with scores, and a corpus with queries and judgements.

    pairs         TSV with columns score, sentence1, sentence2
    <folder>/     corpus.jsonl   one {"_id", "title", "text"} a line
                  queries.tsv    query_id, text
                  qrels.tsv      query_id, doc_id, relevance

UTF-8; a TSV has one header line, tabs between its columns and no quoting. Other columns are ignored.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.text_lines import LineError, read_columns, read_lines, read_objects
from engine.build.errors import BuildError

T = TypeVar("T")


class VerificationError(BuildError):
    """A data file that is not what it should be; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences and how alike people found them."""

    score: float
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus; `text` begins with its title."""

    id: str
    text: str


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file. Raises VerificationError."""
    for line, (score, first, second) in _rows(path, ("score", "sentence1", "sentence2")):
        yield Pair(_number(path, line, score), first, second)


def read_queries(folder: Path) -> dict[str, str]:
    """Text by query id. Raises VerificationError."""
    return {query_id: text for _, (query_id, text) in _rows(folder / "queries.tsv", ("query_id", "text"))}


def read_judgements(folder: Path) -> dict[str, dict[str, float]]:
    """Relevance by document id, by query id. Raises VerificationError."""
    path = folder / "qrels.tsv"
    judgements: dict[str, dict[str, float]] = {}
    for line, (query_id, document_id, relevance) in _rows(path, ("query_id", "doc_id", "relevance")):
        judgements.setdefault(query_id, {})[document_id] = _number(path, line, relevance)
    return judgements


def count_documents(folder: Path) -> int:
    """Lines of the corpus. Raises VerificationError."""
    path = folder / "corpus.jsonl"
    try:
        with path.open("rb") as file:
            return sum(1 for line in read_lines(file) if line.content and line.content.strip())
    except OSError as error:
        raise VerificationError(f"{path} cannot be read: {error}") from None


def read_documents(folder: Path) -> Iterator[Document]:
    """The corpus, one document at a time. Raises VerificationError."""
    path = folder / "corpus.jsonl"
    for number, entry in _translated(path, read_objects(path)):
        if "_id" not in entry:
            raise VerificationError(f'{path}, line {number}: not an object with "_id" and "text"')
        yield Document(str(entry["_id"]), f"{entry.get('title') or ''} {entry.get('text') or ''}".strip())


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the named columns of each line."""
    return _translated(path, read_columns(path, columns))


def _translated(path: Path, rows: Iterator[T]) -> Iterator[T]:
    try:
        yield from rows
    except LineError as error:
        raise VerificationError(f"{path}, {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationError(f"{path} cannot be read: {error}") from None


def _number(path: Path, line: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise VerificationError(f"{path}, line {line}: {cell!r} is not a number") from None
