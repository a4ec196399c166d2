"""Which streams are replayed: files of the user's, or the four of a folder of evaluation data.

web query log     single queries in the log's order, with its natural repeats
bank questions    single questions, shuffled: their file is sorted by what is asked
revisions         chunks of three releases of one documentation, release after release, as a re-indexing sends them
chunks            chunks of documentation, none twice
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.bench.options import SEED
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.wire import batches
from loadtest.texts import read_texts

BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Stream:
    """Texts in the order in which they are sent, `size` in a request."""

    name: str
    texts: Sequence[str]
    size: int = 1

    @property
    def requests(self) -> list[Sequence[str]]:
        """The texts of each request; the last may have fewer."""
        return batches(self.texts, self.size)

    @property
    def repeat_share(self) -> float:
        """Share of the texts that came before in the stream, letter by letter."""
        return 1 - len(set(self.texts)) / len(self.texts)


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one stream, one after the other, and how they are sent."""

    name: str
    files: Sequence[Path]
    field: str = "text"
    size: int = 1
    shuffled: bool = False

    def read(self, count: int | None) -> Stream:
        """At most `count` texts, of each file an equal part from its beginning. Raises TextsError."""
        most = None if count is None else max(count // len(self.files), 1)
        texts = [text for file in self.files for text in self._of(file)[:most]]
        return Stream(self.name, texts, self.size)

    def _of(self, file: Path) -> list[str]:
        texts = read_texts(file, self.field)
        if not self.shuffled:
            return texts
        return [texts[place] for place in np.random.default_rng(SEED).permutation(len(texts)).tolist()]


FOLDER: Final = (
    Source("web query log", [Path("web_query_log/log.tsv")], "query"),
    Source("bank questions", [Path("banking77/train.tsv")], shuffled=True),
    Source("revisions", [Path(f"revisions/django-{release}.jsonl") for release in ("4.2", "5.0", "5.1")], size=BATCH),
    Source("chunks", [Path("rag_chunks/chunks.jsonl")], size=BATCH),
)


def of_folder(folder: Path) -> list[Source]:
    """The streams of a folder of evaluation data. Raises BenchmarkError where it holds none of them."""
    found = [
        Source(one.name, [folder / file for file in one.files], one.field, one.size, one.shuffled) for one in FOLDER
    ]
    found = [one for one in found if all(file.is_file() for file in one.files)]
    if not found:
        wanted = ", ".join(str(one.files[0]) for one in FOLDER)
        raise BenchmarkError(f"{folder} holds none of {wanted}: name files with --stream")
    return found


def parse(text: str) -> Source:
    """`NAME=FILE`, or more: `NAME=FILE,FILE:FIELD:TEXTS_A_REQUEST`. Raises BenchmarkError."""
    name, _, rest = text.partition("=")
    files, *more = rest.split(":")
    try:
        field, size = (*more, "", "")[:2]
        source = Source(name.strip(), [Path(file) for file in files.split(",")], field or "text", int(size or 1))
    except ValueError:
        raise BenchmarkError(f"--stream {text}: texts in a request are a number, such as 32") from None
    if not (name.strip() and files) or len(more) > 2 or not 1 <= source.size <= 2048:
        raise BenchmarkError(f"--stream {text}: give NAME=FILE[,FILE][:FIELD[:TEXTS_A_REQUEST]]")
    for file in source.files:
        if not file.is_file():
            raise BenchmarkError(f"--stream {text}: there is no file {file}")
    return source
