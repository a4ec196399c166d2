"""Texts to token ids to vectors while a bundle is verified, in batches chosen as the engine chooses them.

Bounded memory: a corpus is read in pieces.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
from tokenizers import Tokenizer

from engine.batching.lane_queue import BatchShape, LaneQueue, Row
from engine.feeds import Run
from engine.protocol import Float32Array, Int32Array

PIECE = 512  # texts in memory at a time
SHAPE = BatchShape(max_rows=128, max_tokens=1000, run_cost_tokens=20.0)  # what the engine arrives at on a CPU

Runs = Mapping[str, Run]
"""The graphs to measure, by precision: the bundle's own first, then "fp32" where there is a reference."""

ItemT = TypeVar("ItemT")


class Progress(Protocol):
    """How a long measurement reports its progress."""

    def step(self, what: str) -> None:
        """A new step begins."""
        ...

    def done(self, count: int, total: int) -> None:
        """So much of the step is done."""
        ...


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int32Array]:
    """Token ids, int32[length] each, truncated at the model's limit."""
    return [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch_fast(list(texts))]


def pieces(items: Iterable[ItemT], size: int = PIECE) -> Iterator[list[ItemT]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def batches(texts: Sequence[Int32Array]) -> list[list[int]]:
    """Places in `texts`, batch by batch, as the engine would batch them if all came at once."""
    queue: LaneQueue[None] = LaneQueue()
    queue.add(Row(text, None, index) for index, text in enumerate(texts))
    planned = []
    while len(queue):
        planned.append([row.index for row in queue.take(SHAPE)])
    return planned


def embed(run: Run, texts: Sequence[Int32Array]) -> Float32Array:
    """Vectors float32[n, dimensions] in the order of `texts`; at least one text."""
    planned = batches(texts)
    computed = np.concatenate([run([texts[index] for index in batch]) for batch in planned])
    vectors = np.empty_like(computed)
    vectors[np.concatenate(planned)] = computed
    return vectors


def unit_length(vectors: Float32Array) -> Float32Array:
    """Rows divided by their L2 norm, so that a product of two is their cosine similarity."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def padding_share(texts: Sequence[Int32Array]) -> float:
    """Share of padding in the padded form of all batches, 0 to 1, when all texts wait at once."""
    lengths = [[len(texts[index]) for index in batch] for batch in batches(texts)]
    padded = sum(len(batch) * max(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / padded
