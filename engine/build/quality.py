"""How good a graph is: its cosine similarity to FP32, and whether a text's vector depends on its batch."""

import random
from collections.abc import Mapping, Sequence

import numpy as np

from engine.build.errors import QualityError
from engine.build.running import Run
from engine.feeds import feeds
from engine.model.check_vectors import cosine_similarity
from engine.protocol import Float32Array, Int32Array

LOWEST_MEAN_COSINE = 0.995
LOWEST_COSINE = 0.98
N_BATCH_CHECKED = 24
LONG_TOKENS = 512  # longer texts are few among those checked, and each has just one short text for company
SPARSE_TOKENS = 2048  # beyond, only the powers of two themselves are checked
SHORTEST_CHECKED = 2  # a tokenizer puts its two special tokens around the empty text


def cosine_report(vectors: Float32Array, reference: Float32Array) -> dict[str, float]:
    """Mean, first percentile and minimum of the cosine similarity of rows, float32[n, dimensions] each."""
    cosine = cosine_similarity(vectors, reference)
    return {
        "cosine_mean": round(float(cosine.mean()), 6),
        "cosine_p1": round(float(np.quantile(cosine, 0.01)), 6),
        "cosine_min": round(float(cosine.min()), 6),
        "cosine_texts": float(len(cosine)),
    }


def lengths_to_check(max_tokens: int) -> list[int]:
    """Text lengths around the places where kernels change their way: powers of two, remainders, the limit."""
    edges = {1 << power for power in range(1, max_tokens.bit_length())}
    lengths = {edge + step for edge in edges for step in (-1, 0, 1) if edge <= SPARSE_TOKENS}
    lengths |= {max_tokens, 19, 22, 45} | edges
    return sorted(length for length in lengths if SHORTEST_CHECKED <= length <= max_tokens)


def count_batch_dependent(run: Run, max_tokens: int, vocab_size: int) -> int:
    """How many of the checked texts change a byte of their vector: alone, among others, padded to the limit."""
    rng = np.random.default_rng(0)
    lengths = lengths_to_check(max_tokens)
    texts: list[Int32Array] = [rng.integers(0, vocab_size, length, dtype=np.int32) for length in lengths]
    alone = [run(feeds([text]))["embeddings"][0].tobytes() for text in texts]
    changed: set[int] = set()
    for batch in _batches(lengths):
        vectors = run(feeds([texts[index] for index in batch]))["embeddings"]
        changed |= {index for index, vector in zip(batch, vectors, strict=True) if vector.tobytes() != alone[index]}
    return len(changed)


def _batches(lengths: list[int]) -> list[list[int]]:
    """Each text beside the longest; then all, shuffled, in batches. `lengths` ascend; for long texts see `beside`."""
    ordinary = range(sum(length <= LONG_TOKENS for length in lengths))
    shuffled = random.Random(0).sample(ordinary, len(ordinary))  # noqa: S311  # an order, no secret
    batches = (shuffled[start : start + N_BATCH_CHECKED] for start in range(0, len(ordinary), N_BATCH_CHECKED))
    return [*beside(lengths), *batches]


def beside(lengths: Sequence[int]) -> list[list[int]]:
    """Pairs of places: each text of a length beside the longest of at most LONG_TOKENS, each longer one beside the
    shortest. A pair of 8,192 tokens takes a minute with a large model."""
    places = {length: lengths.index(length) for length in sorted(set(lengths))}
    longest = places[max((length for length in places if length <= LONG_TOKENS), default=min(places))]
    shortest = places[min(places)]
    return [[place, longest if length <= LONG_TOKENS else shortest] for length, place in places.items()]


def demand(quality: Mapping[str, float]) -> None:
    """Refuse a graph that is under the bar. Raises QualityError."""
    if quality.get("batch_dependent_texts", 0):
        raise QualityError(
            f"{quality['batch_dependent_texts']:.0f} of {quality['batch_checked_texts']:.0f} texts change with what"
            " they are batched with on this machine, so their vectors cannot be cached; --force builds it all the same"
        )
    mean, lowest = quality.get("cosine_mean", 1.0), quality.get("cosine_min", 1.0)
    if mean < LOWEST_MEAN_COSINE or lowest < LOWEST_COSINE:
        raise QualityError(
            f"cosine to FP32 is {mean:.4f} on average and {lowest:.4f} at worst; the bar is {LOWEST_MEAN_COSINE} and"
            f" {LOWEST_COSINE}. Calibrate on texts like your own, or --force it"
        )
