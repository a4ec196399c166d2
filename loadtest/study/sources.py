"""The study's texts: a file of the user's or the package's own, chunks made of them, and a stream with repeats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from common.texts import Format
from loadtest.texts import read_lines

PACKAGE: Final = Path(__file__).parents[2] / "engine" / "build"
MEASURED, CALIBRATION = PACKAGE / "hold_out.txt", PACKAGE / "calibration.txt"
SHORTEST, LONGEST = 100, 500  # characters of a chunk
SEED: Final = 0


def distinct_texts(path: Path | None, format: Format | None, field: str, limit: int) -> list[str]:
    """At most `limit` distinct texts of a file, or of the package's hold-out, in a seeded order. Raises TextsError."""
    distinct = list(dict.fromkeys(read_lines(path or MEASURED, format=format, field=field).texts))
    order = np.random.default_rng(SEED).permutation(len(distinct))
    return [distinct[place] for place in order[:limit]]


def calibration_texts() -> list[str]:
    """The package's own, never measured: what candidates that are calibrated may use."""
    return read_lines(CALIBRATION).texts


def make_chunks(texts: Sequence[str], count: int) -> list[str]:
    """`count` chunks of 100 to 500 characters, of evenly spread lengths: random texts, cut at a word; seeded."""
    rng = np.random.default_rng(SEED)
    return [_chunk(texts, int(length), rng) for length in rng.integers(SHORTEST, LONGEST + 1, count)]


def _chunk(texts: Sequence[str], length: int, rng: np.random.Generator) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) + len(parts) <= length:
        parts.append(texts[int(rng.integers(len(texts)))].strip() or "empty")
    whole = " ".join(parts)[: length + 1]
    cut = whole.rfind(" ")
    return whole[:cut] if cut >= SHORTEST else whole[:length]


def with_repeats(texts: Sequence[str], count: int, share: float, apart: int = 1) -> list[str]:
    """`count` texts of which `share` repeat an earlier one, drawn evenly; texts are numbered to be new.

    apart: how many new texts lie at least between a text and its repeat, so that the first was answered by then.
    """
    rng = np.random.default_rng(SEED)
    stream: list[str] = []
    fresh: list[str] = []
    repeats = rng.permutation(np.arange(count) < round(share * count))
    for repeat in [*repeats.tolist(), *[True] * count]:  # those for which it was too early come at the end
        if len(stream) == count:
            break
        if repeat and len(fresh) <= apart:
            continue
        if not repeat:
            fresh.append(f"{texts[len(fresh) % len(texts)]} ({len(fresh)})")
        stream.append(fresh[int(rng.integers(len(fresh) - apart))] if repeat else fresh[-1])
    return stream
