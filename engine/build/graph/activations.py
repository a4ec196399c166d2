"""What calibration texts show of a graph's inputs: peaks for smoothing, Gram matrices for GPTQ."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.build.running import Run
from engine.feeds import feeds
from engine.protocol import Float32Array, Int32Array

MAX_BATCH_TOKENS = 512  # the observed graph returns every input of every layer
MAX_GRAM_TOKENS = 16_384  # MiniLM on one core with AVX2: 10 s; twice as many bring less than .00005 of cosine
INPUT = "input."


@dataclass(slots=True)
class Activations:
    """By site: the largest magnitude of each channel, float32[K]; and the sum of x x^T, float32[K, K]."""

    peaks: dict[str, Float32Array] = field(default_factory=dict)
    grams: dict[str, Float32Array] = field(default_factory=dict)


def observe(run: Run, texts: Sequence[Int32Array]) -> Activations:
    """Run an observed graph (`Fp32Linears(observe=True)`) over `texts`.

    Peaks see all texts; Gram matrices see the first ones, as given, up to MAX_GRAM_TOKENS in all.
    """
    seen = Activations()
    enough = int(np.searchsorted(np.cumsum([len(text) for text in texts]), MAX_GRAM_TOKENS)) + 1
    for batch in _batches(texts[:enough]):
        for site, x in _inputs(run, batch):
            _add_peak(seen, site, x)
            gram = x.T @ x
            seen.grams[site] = seen.grams[site] + gram if site in seen.grams else gram
    for batch in _batches(texts[enough:]):
        for site, x in _inputs(run, batch):
            _add_peak(seen, site, x)
    return seen


def _inputs(run: Run, batch: Sequence[Int32Array]) -> Iterator[tuple[str, Float32Array]]:
    """Each site's input of a batch, float32[T, K]."""
    for name, x in run(feeds(batch)).items():
        if name.startswith(INPUT):
            yield name.removeprefix(INPUT), x


def _add_peak(seen: Activations, site: str, x: Float32Array) -> None:
    peak = np.abs(x).max(axis=0)
    seen.peaks[site] = np.maximum(seen.peaks[site], peak) if site in seen.peaks else peak


def _batches(texts: Iterable[Int32Array]) -> Iterator[list[Int32Array]]:
    """Texts of similar length together, at most MAX_BATCH_TOKENS with padding; a longer text alone."""
    batch: list[Int32Array] = []
    for text in sorted(texts, key=len):
        if batch and len(text) * (len(batch) + 1) > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
