"""Runs on a GPU: each text in a shape that its own length alone decides, so that no vector depends on its batch.

A GPU's libraries choose a kernel by the shape of a product, and another kernel adds in another order: on an H200 none
of 64 texts kept its bytes in a batch of 8. Within one shape they did: a row's bytes depend neither on its place nor on
the other rows. So a run has one of a few shapes [rows, length]. What fills a text up is masked, rows without a text
repeat the first one, and texts of a batch that want other shapes are further runs.

A run of one shape always costs the same. On that GPU a lone text took 1.06 ms in a shape of its own and 1.23 ms in one
of 128 rows, since starting the kernels is what takes the time (`python -m tests.measure_gpu`).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from engine.feeds import Feeds, Run
from engine.protocol import Float32Array, Int32Array

SHORTEST = 16  # tokens; the lengths are this, doubled until the model's longest text fits
RUN_TOKENS = 4096  # rows x length of a run; a longer text runs alone


def lengths_of_runs(max_tokens: int) -> list[int]:
    """The lengths that runs have, in tokens, for texts of up to `max_tokens`; the last is `max_tokens` itself."""
    lengths = [min(SHORTEST, max_tokens)]
    while lengths[-1] < max_tokens:
        lengths.append(min(2 * lengths[-1], max_tokens))
    return lengths


def rows_of_runs(length: int, run_tokens: int = RUN_TOKENS) -> int:
    """How many texts a run of this length takes; of the shortest as many as of those twice as long."""
    return max(1, run_tokens // max(length, 2 * SHORTEST))


def run_in_shapes(session: ort.InferenceSession, max_tokens: int, run_tokens: int = RUN_TOKENS) -> Run:
    """A session as a function from texts to their vectors, in fixed shapes. A text has `max_tokens` at most."""
    output = [session.get_outputs()[0].name]
    lengths = np.array(lengths_of_runs(max_tokens), np.int32)

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        vectors: Float32Array | None = None
        for rows, length, places in _runs(texts, lengths, run_tokens):
            given = fixed_feeds([texts[place] for place in places], rows, length)
            computed = session.run(output, given)[0]
            if vectors is None:
                vectors = np.empty((len(texts), computed.shape[1]), np.float32)
            vectors[places] = computed[: len(places)]
        if vectors is None:
            raise ValueError("a batch needs at least one text")
        return vectors

    return run


def fixed_feeds(texts: Sequence[Int32Array], rows: int, length: int) -> Feeds:
    """The graph's inputs (see `engine.feeds`) for at most `rows` texts of at most `length` tokens, in this shape.

    Raises ValueError on an empty batch, on a text without tokens, and on more or longer texts.
    """
    if not 0 < len(texts) <= rows or not all(0 < len(text) <= length for text in texts):
        raise ValueError(f"a run of {rows} x {length} takes 1 to {rows} texts of 1 to {length} tokens")
    filled = [*texts, *[texts[0]] * (rows - len(texts))]
    is_token = np.arange(length) < np.array([len(text) for text in filled])[:, None]
    input_ids = np.zeros((rows, length), np.int32)
    input_ids[is_token] = np.concatenate(filled)
    places = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    return {
        "input_ids": input_ids.ravel(),
        "position_ids": np.where(is_token, np.arange(length), 0).astype(np.int32).ravel(),
        "rows": places,
        "slots": places.ravel(),
        "attention_mask": is_token.astype(np.int32),
    }


def _runs(
    texts: Sequence[Int32Array], lengths: Int32Array, run_tokens: int
) -> Iterator[tuple[int, int, npt.NDArray[np.intp]]]:
    """Each run's rows and length, and the places of its texts."""
    wanted = np.searchsorted(lengths, [len(text) for text in texts])
    for index in np.unique(wanted):
        length = int(lengths[index])
        rows = rows_of_runs(length, run_tokens)
        places = np.flatnonzero(wanted == index)
        for start in range(0, len(places), rows):
            yield rows, length, places[start : start + rows]
