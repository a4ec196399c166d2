"""When requests are sent, and with which texts: pure, seeded, the same with the same seed.

Arrivals do not depend on answers (an open loop). Each request has one text, or one of several sizes.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest import streams
from loadtest.streams import Drawn, Seed, WorkloadError

CHUNK = 4096  # draws made at a time
MAX_BATCH = 2048


class Law(enum.StrEnum):
    """How texts are drawn: see `loadtest.streams`. BULK is `replay` over texts joined to long chunks."""

    REPLAY = "replay"
    ZIPF = "zipf"
    UNIFORM = "uniform"
    UNIQUE = "unique"
    PARAPHRASES = "paraphrases"
    REVISIONS = "revisions"
    BULK = "bulk"


class Pace(enum.StrEnum):
    """How arrivals are spaced.

    POISSON as from many independent clients, CONSTANT as from a metronome, RECORDED by the file's own times.
    """

    POISSON = "poisson"
    CONSTANT = "constant"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is due `due_s` seconds after the start, whatever became of the earlier ones.

    `kinds` has each text's kind (`loadtest.streams.KINDS`), or nothing where they are not known.
    """

    due_s: float
    texts: list[str]
    kinds: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batches:
    """How many texts a request has: sizes, each with its weight."""

    sizes: tuple[int, ...] = (1,)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, text: str) -> "Batches":
        """`8`, or sizes with weights: `1:90,32:10`; without weights all are equally likely. Raises ValueError."""
        sizes, weights = [], []
        for part in text.split(","):
            size, _, weight = part.strip().partition(":")
            try:
                sizes.append(int(size))
                weights.append(float(weight or 1))
            except ValueError:
                raise ValueError(
                    f"{part.strip()!r} is not a size, such as 32, or a size with a weight, 32:10"
                ) from None
        if not all(1 <= size <= MAX_BATCH for size in sizes):
            raise ValueError(f"sizes must lie from 1 to {MAX_BATCH:,}")
        if not all(0 < weight < 1e9 for weight in weights):
            raise ValueError("weights must be positive numbers")
        return cls(tuple(sizes), tuple(weights))

    def draw(self, seed: Seed) -> Iterator[int]:
        """Sizes without end."""
        if len(self.sizes) == 1:
            while True:
                yield self.sizes[0]
        rng = np.random.default_rng(seed)
        shares = np.array(self.weights) / sum(self.weights)
        while True:
            yield from rng.choice(self.sizes, size=CHUNK, p=shares).tolist()

    def __str__(self) -> str:
        if len(self.sizes) == 1:
            return str(self.sizes[0])
        total = sum(self.weights)
        return ", ".join(
            f"{size} ({weight / total:.0%})" for size, weight in zip(self.sizes, self.weights, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Drawing:
    """How texts are drawn, and the law's own parameters."""

    law: Law = Law.REPLAY
    exponent: float = 1.0
    repeat_share: float | None = None  # of ZIPF: the share of repeats; None leaves it to the exponent
    distance: int = 100  # of PARAPHRASES: texts between the two of a pair
    edit_share: float = 0.1  # of REVISIONS: texts edited in each release
    chunk_characters: int = 1000  # of BULK

    def __str__(self) -> str:
        repeats = "" if self.repeat_share is None else f", {self.repeat_share:.0%} repeats"
        return {
            Law.ZIPF: f"zipf {self.exponent:g}{repeats}",
            Law.PARAPHRASES: f"paraphrases, {self.distance:,} texts apart",
            Law.REVISIONS: f"revisions, {self.edit_share:.0%} edited in each",
            Law.BULK: f"bulk, chunks of {self.chunk_characters:,} characters or more",
        }.get(self.law, self.law.value)

    def texts(self, texts: Sequence[str], seed: Seed = 0, *, pairs: Sequence[tuple[str, str]] = ()) -> Iterator[Drawn]:
        """Texts with their kinds; `pairs` instead of `texts` for PARAPHRASES. May raise WorkloadError when used up."""
        match self.law:
            case Law.PARAPHRASES:
                return streams.paraphrases(pairs, self.distance, seed)
            case Law.REVISIONS:
                return streams.revisions(texts, self.edit_share, seed)
            case Law.UNIQUE:
                return streams.marked(streams.unique(texts, seed))
            case Law.BULK:
                return streams.marked(streams.replay(streams.long_chunks(texts, self.chunk_characters)))
            case Law.REPLAY:
                return streams.marked(streams.replay(texts))
            case Law.ZIPF if self.repeat_share is not None:
                return streams.marked(streams.repeats(texts, self.repeat_share, self.exponent, seed))
            case _:
                exponent = self.exponent if self.law is Law.ZIPF else 0.0
                return streams.marked(streams.zipf(texts, exponent, seed))


def arrivals(
    drawn: Iterator[Drawn],
    *,
    rate: float,
    seconds: float,
    batches: Batches | None = None,
    pace: Pace = Pace.POISSON,
    seed: int = 0,
) -> Iterator[Arrival]:
    """Requests at `rate` a second for `seconds`; times and sizes by the seed, whatever the texts are."""
    times_seed, _, sizes_seed = seeds(seed)
    sizes = (batches or Batches()).draw(sizes_seed)
    for due_s in due_times(rate, seconds, pace, seed=times_seed):
        yield _arrival(due_s, drawn, next(sizes))


def recorded(times: Sequence[float], texts: Sequence[str], speed: float, seconds: float) -> Iterator[Arrival]:
    """The texts at their recorded times, `speed` times as fast, one a request, until `seconds` have passed."""
    drawn = streams.marked(iter(texts))
    first = times[0]
    for at, one in zip(times, drawn, strict=False):
        due_s = (at - first) / speed
        if due_s >= seconds:
            return
        yield Arrival(due_s, [one.text], [one.kind])


def seeds(seed: int) -> list[np.random.SeedSequence]:
    """The seeds of times, texts and sizes: each stays as it is when another is used otherwise."""
    return np.random.SeedSequence(seed).spawn(3)


def _arrival(due_s: float, drawn: Iterator[Drawn], size: int) -> Arrival:
    taken = [next(drawn) for _ in range(size)]
    return Arrival(due_s, [one.text for one in taken], [one.kind for one in taken])


def due_times(rate: float, seconds: float, pace: Pace, seed: Seed = 0) -> Iterator[float]:
    """Seconds from the start, rising, all below `seconds`."""
    if pace is Pace.CONSTANT:
        yield from (number / rate for number in range(int(np.ceil(rate * seconds))) if number / rate < seconds)
        return
    rng = np.random.default_rng(seed)
    now = 0.0
    while True:
        times = now + np.cumsum(rng.exponential(1.0 / rate, CHUNK))
        yield from times[times < seconds].tolist()
        now = float(times[-1])
        if now >= seconds:
            return


__all__ = ["Arrival", "Batches", "Drawing", "Law", "Pace", "WorkloadError", "arrivals", "due_times", "recorded"]
