"""How close a bundle's vectors are to FP32's, and whether they depend on their batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.build.calibration import DEFAULT_FILE, CalibrationTexts, read_texts
from engine.build.quality import LONG_TOKENS, beside, lengths_to_check
from engine.build.verify.embedding import embed, unit_length
from engine.bundle import Bundle, sha256_of
from engine.feeds import Run
from engine.protocol import Int32Array

MAX_TEXTS = 2_000  # a sample of a longer file
MAX_BATCHED_TEXTS = 256
SHORT_TOKENS = 8  # below, texts are single words and the like
ROUNDS = 3
LARGEST_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class CosineReport:
    """Cosine similarity to FP32. `least_tokens`: the length of the text with the lowest; `mean_long`: of texts with
    at least SHORT_TOKENS tokens, None where there is none.
    """

    texts: int
    mean: float
    p1: float
    min: float
    least_tokens: int
    mean_long: float | None
    min_long: float | None


@dataclass(frozen=True, slots=True)
class BatchReport:
    """`changed` of `texts` changed a byte in one of `batches` batches, against the same text alone."""

    texts: int
    batches: int
    changed: int
    changed_lengths: list[int]


def choose_texts(bundle: Bundle, path: Path | None) -> tuple[list[str], str]:
    """The texts to compare on and where they come from, in words. Raises CalibrationError.

    Never those the bundle was calibrated with: of the built-in texts and of its own calibration file, the hold-out.
    """
    if path is None:
        return list(read_texts(None).hold_out), f"hold-out of {DEFAULT_FILE.name}, built in"
    inputs: dict[str, Any] = bundle.recipe.get("inputs", {})
    if path.is_file() and sha256_of(path) == inputs.get("calibration_sha256"):
        return list(read_texts(path).hold_out), f"hold-out of {path}, which calibrated the bundle"
    texts = read_texts(path, MAX_TEXTS)
    whole = [*texts.calibrate, *texts.hold_out] if _is_split(texts) else list(texts.hold_out)
    return whole, str(path)


def _is_split(texts: CalibrationTexts) -> bool:
    return texts.calibrate != texts.hold_out


def compare_with(reference: Run, run: Run, texts: Sequence[Int32Array]) -> CosineReport:
    """The cosine of each text's two vectors."""
    vectors, exact = unit_length(embed(run, texts)), unit_length(embed(reference, texts))
    cosine = np.asarray(np.sum(vectors * exact, axis=1, dtype=np.float64))
    lengths = np.array([len(text) for text in texts])
    longer = cosine[lengths >= SHORT_TOKENS]
    return CosineReport(
        texts=len(texts),
        mean=float(cosine.mean()),
        p1=float(np.quantile(cosine, 0.01)),
        min=float(cosine.min()),
        least_tokens=int(lengths[np.argmin(cosine)]),
        mean_long=float(longer.mean()) if len(longer) else None,
        min_long=float(longer.min()) if len(longer) else None,
    )


def check_batches(run: Run, texts: Sequence[Int32Array], max_tokens: int, vocab_size: int) -> BatchReport:
    """Compare bytes: texts alone, beside the longest, and in shuffled batches of mixed lengths and sizes.

    Random texts of the lengths around which kernels change their way are added to those given.
    """
    rng = np.random.default_rng(0)
    checked = list(texts[:MAX_BATCHED_TEXTS])
    checked += [rng.integers(0, vocab_size, length, dtype=np.int32) for length in lengths_to_check(max_tokens)]
    alone = [run([text])[0].tobytes() for text in checked]
    changed: set[int] = set()
    n_batches = 0
    for batch in _companies([len(text) for text in checked], rng):
        vectors = run([checked[index] for index in batch])
        n_batches += 1
        changed |= {index for index, vector in zip(batch, vectors, strict=True) if vector.tobytes() != alone[index]}
    return BatchReport(len(checked), n_batches, len(changed), sorted({len(checked[index]) for index in changed}))


def _companies(lengths: Sequence[int], rng: np.random.Generator) -> Iterator[list[int]]:
    """One text of each length beside another; then all in shuffled batches of 1 to 64, bounded in padded tokens."""
    yield from beside(lengths)
    ordinary = [place for place, length in enumerate(lengths) if length <= LONG_TOKENS]
    for _ in range(ROUNDS):
        batch: list[int] = []
        size = int(rng.integers(1, 65))
        for index in map(int, rng.permutation(ordinary)):
            fits = (len(batch) + 1) * max(lengths[place] for place in [*batch, index]) <= LARGEST_BATCH_TOKENS
            if batch and (len(batch) == size or not fits):
                yield batch
                batch, size = [], int(rng.integers(1, 65))
            batch.append(index)
        if batch:
            yield batch
