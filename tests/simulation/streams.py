"""Text streams as token ids and the engine's true vectors, computed once and kept beside the bundle's hash.

The data folder is the caller's; it holds one folder a source, TSV with one header line or JSON Lines with "text".
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.text_lines import read_cells
from common.texts import form_of, read_all
from engine.bundle import GRAPH_FILE, TOKENIZER_FILE, parse_tokenizer, read_bundle
from engine.feeds import feeds
from engine.model.cpu_session import open_cpu_session

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Stream:
    """`order[i]` is the distinct text of request i; `ids` and `vectors` are those of the distinct texts.

    `measured_from`: requests before this one only fill the cache.
    """

    name: str
    order: npt.NDArray[np.int64]
    ids: list[Int32Array]
    vectors: Float32Array
    measured_from: int = 0


def tsv(path: Path, *columns: int) -> list[str]:
    """Texts of some columns, row by row."""
    _, *rows = read_cells(path)
    return [cells[column] for _, cells in rows for column in columns]


def json_lines(path: Path) -> list[str]:
    """The "text" of each line."""
    return read_all([path], form_of, limit=sys.maxsize).texts


SOURCES: dict[str, Callable[[Path], list[str]]] = {
    "banking77": lambda d: tsv(d / "banking77/train.tsv", 1) + tsv(d / "banking77/test.tsv", 1),
    "qqp": lambda d: tsv(d / "qqp/pairs.tsv", 2, 3)[:16000],
    "web_query_log": lambda d: tsv(d / "web_query_log/log.tsv", 1)[:12000],
    "mq_queries": lambda d: tsv(d / "mq_queries/queries.tsv", 1)[:8000],
    "revisions": lambda d: [
        text for release in ("4.2", "5.0", "5.1") for text in json_lines(d / f"revisions/django-{release}.jsonl")
    ],
}
REVISION_SIZES = (2985, 3001, 3018)


class Teacher:
    """The bundle's tokenizer and graph on one thread."""

    def __init__(self, bundle_folder: Path) -> None:
        bundle = read_bundle(bundle_folder)
        self.hash = bundle.graph_sha256[:12]
        self.tokenizer = parse_tokenizer((bundle_folder / TOKENIZER_FILE).read_bytes(), bundle.max_tokens)
        self._session = open_cpu_session(bundle_folder / GRAPH_FILE)

    def tokenize(self, texts: Sequence[str]) -> list[Int32Array]:
        """int32 ids of each text."""
        return [np.array(one.ids, dtype=np.int32) for one in self.tokenizer.encode_batch(list(texts))]

    def embed(self, ids: Sequence[Int32Array]) -> Float32Array:
        """float32[n, dimensions], in batches of similar lengths."""
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        out: list[tuple[int, Float32Array]] = []
        start = 0
        while start < len(order):
            size = max(1, min(64, BATCH_TOKENS // len(ids[order[min(start + 63, len(order) - 1)]])))
            batch = order[start : start + size]
            out += zip(batch, self._session.run(None, feeds([ids[index] for index in batch]))[0], strict=True)
            start += size
        return np.stack([vector for _, vector in sorted(out, key=lambda pair: pair[0])])


def load(name: str, data: Path, teacher: Teacher, cache: Path) -> Stream:
    """A stream in its file's order; its vectors come from `cache` when they were computed before."""
    ids = teacher.tokenize(SOURCES[name](data))
    seen: dict[bytes, int] = {}
    order = np.array([seen.setdefault(one.tobytes(), len(seen)) for one in ids])
    distinct = [np.frombuffer(key, dtype=np.int32) for key in seen]
    return Stream(name, order, distinct, embed_cached(name, distinct, teacher, cache))


def embed_cached(name: str, ids: Sequence[Int32Array], teacher: Teacher, cache: Path) -> Float32Array:
    """The teacher's vectors of `ids`, from a file of the right length when there is one."""
    path = cache / f"{name}-{teacher.hash}.npy"
    if path.is_file() and len(found := np.load(path, allow_pickle=False)) == len(ids):
        return found  # type: ignore[no-any-return]
    vectors = teacher.embed(ids)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return vectors


def shuffled(stream: Stream, seed: int, size: int | None = None) -> Stream:
    """The stream in another order: revisions within each release, the others as a whole, at most `size` requests."""
    draw = np.random.default_rng(seed)
    if stream.name == "revisions":
        bounds = np.cumsum((0, *REVISION_SIZES))
        parts = [draw.permutation(stream.order[a:b]) for a, b in pairwise(bounds)]
        return Stream(stream.name, np.concatenate(parts), stream.ids, stream.vectors, REVISION_SIZES[0])
    order = stream.order if stream.name in ("web_query_log",) else draw.permutation(stream.order)
    if size is not None and len(order) > size:
        start = int(draw.integers(0, len(order) - size + 1))
        order = order[start : start + size]
    return Stream(stream.name, order, stream.ids, stream.vectors, 0)


def one_after_another(before: Stream, after: Stream, seed: int) -> Stream:
    """The requests of one stream, shuffled, and then those of another."""
    first, second = shuffled(before, seed), shuffled(after, seed)
    return Stream(
        f"{before.name} then {after.name}",
        np.concatenate([first.order, second.order + len(first.ids)]),
        first.ids + second.ids,
        np.concatenate([first.vectors, second.vectors]),
    )
