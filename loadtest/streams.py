"""Texts without end or to their end, each with what it is to a cache: new, a repeat, a paraphrase, a revised text.

Pure and seeded. The kinds are what the *stream* knows; what the server made of them is in the report, kind by tier.

    replay       the file in its order, from the start again at its end
    zipf         the text of rank r in proportion to 1 / r ** exponent; ranks are shuffled once
    uniform      each text as likely as any other
    unique       each text once, in shuffled order: nothing repeats
    repeats      a given share repeats an earlier text of the stream, the more popular the likelier; the rest is new
    paraphrases  both texts of each pair, the second some texts after the first
    revisions    all texts, release after release; in each a share of them is edited
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

CHUNK = 4096  # draws made at a time: numpy is fast in bulk, and a long test need not be held in memory

NEW, REPEAT, PARAPHRASE, REVISED = "new", "repeat", "paraphrase", "revised"
KINDS = (NEW, REPEAT, PARAPHRASE, REVISED)

Seed = int | np.random.SeedSequence


@dataclass(frozen=True, slots=True)
class Drawn:
    """A text, and its kind."""

    text: str
    kind: str


class WorkloadError(ValueError):
    """A workload that these texts cannot make; the message has the remedy."""


def marked(texts: Iterator[str]) -> Iterator[Drawn]:
    """Each text as new where it comes for the first time, else as a repeat."""
    seen: set[str] = set()
    for text in texts:
        yield Drawn(text, REPEAT if text in seen else NEW)
        seen.add(text)


def replay(texts: Sequence[str]) -> Iterator[str]:
    """The texts in their order, again and again."""
    while True:
        yield from texts


def zipf(texts: Sequence[str], exponent: float, seed: Seed) -> Iterator[str]:
    """Texts by popularity, without end; with exponent 0 all alike."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))
    shares = zipf_shares(len(texts), exponent)
    while True:
        for rank in rng.choice(len(texts), size=CHUNK, p=shares).tolist():
            yield texts[order[rank]]


def zipf_shares(ranks: int, exponent: float) -> npt.NDArray[np.float64]:
    """Probability of each rank, float64[ranks], falling, with sum 1; exponent 0 makes them equal."""
    weights = np.arange(1, ranks + 1, dtype=np.float64) ** -exponent
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def unique(texts: Sequence[str], seed: Seed) -> Iterator[str]:
    """Each distinct text once. Raises WorkloadError behind the last."""
    distinct = list(dict.fromkeys(texts))
    for place in np.random.default_rng(seed).permutation(len(distinct)).tolist():
        yield distinct[place]
    raise WorkloadError(
        f"nothing may repeat, and the file's {len(distinct):,} distinct texts are used up: give --texts a larger file, "
        "or send fewer (--rate, --seconds, --batch)"
    )


def repeats(texts: Sequence[str], share: float, exponent: float, seed: Seed) -> Iterator[str]:
    """With probability `share` a text that was sent before, else a new one. Raises WorkloadError without a new one.

    Which of the earlier ones follows Zipf's law over the order of their first appearance, as popular texts come early.
    """
    draws_seed, new_seed = (seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)).spawn(2)
    rng = np.random.default_rng(draws_seed)
    fresh = unique(texts, new_seed)
    sent: list[str] = []
    while True:
        for again, place in rng.random((CHUNK, 2)).tolist():
            if sent and again < share:
                yield sent[_bounded_zipf(place, len(sent), exponent)]
            else:
                sent.append(next(fresh))
                yield sent[-1]


def _bounded_zipf(place: float, ranks: int, exponent: float) -> int:
    """A rank from 0 below `ranks`, by inversion of the continuous law; `place` is uniform on [0, 1)."""
    if exponent == 1:
        return min(int((ranks + 1) ** place) - 1, ranks - 1)
    power = 1 - exponent
    return min(int((1 + place * ((ranks + 1) ** power - 1)) ** (1 / power)) - 1, ranks - 1)


def paraphrases(pairs: Sequence[tuple[str, str]], distance: int, seed: Seed) -> Iterator[Drawn]:
    """The pairs in shuffled order, each second text `distance` texts behind its first. Raises WorkloadError at the end.

    A text that came before, as the same text of another pair, is a repeat.
    """
    seen: set[str] = set()
    waiting: deque[tuple[int, str]] = deque()

    def kind_of(text: str, otherwise: str) -> Drawn:
        drawn = Drawn(text, REPEAT if text in seen else otherwise)
        seen.add(text)
        return drawn

    sent = 0
    for place in np.random.default_rng(seed).permutation(len(pairs)).tolist():
        while waiting and waiting[0][0] <= sent:
            yield kind_of(waiting.popleft()[1], PARAPHRASE)
            sent += 1
        first, second = pairs[place]
        yield kind_of(first, NEW)
        waiting.append((sent + distance, second))
        sent += 1
    for _, second in waiting:
        yield kind_of(second, PARAPHRASE)
    raise WorkloadError(
        f"the file's {len(pairs):,} pairs are used up: give --texts a larger file, or send fewer (--rate, --seconds)"
    )


def revisions(texts: Sequence[str], edit_share: float, seed: Seed) -> Iterator[Drawn]:
    """All texts in order, release after release without end; from the second on a share of them is edited first.

    An edit replaces, leaves out or doubles one word, and stays in later releases.
    """
    rng = np.random.default_rng(seed)
    current = list(texts)
    seen: set[str] = set()
    for release in count():
        for place, text in enumerate(current):
            is_edited = release > 0 and rng.random() < edit_share
            if is_edited:
                text = current[place] = _edited(text, current, rng)  # noqa: PLW2901  the text that is sent
            yield Drawn(text, REPEAT if text in seen else REVISED if is_edited else NEW)
            seen.add(text)


def _edited(text: str, others: Sequence[str], rng: np.random.Generator) -> str:
    words = text.split(" ")
    place = int(rng.integers(len(words)))
    how = int(rng.integers(3)) if len(words) > 1 else 2
    if how == 0:
        donor = others[int(rng.integers(len(others)))].split(" ")
        words[place] = donor[int(rng.integers(len(donor)))]
    elif how == 1:
        del words[place]
    else:
        words.insert(place, words[place])
    return " ".join(words)


def long_chunks(texts: Sequence[str], characters: int) -> list[str]:
    """Consecutive texts joined until each chunk has at least `characters`; the last may have fewer."""
    chunks, parts, length = [], [], 0
    for text in texts:
        parts.append(text)
        length += len(text) + 1
        if length >= characters:
            chunks.append(" ".join(parts))
            parts, length = [], 0
    if parts:
        chunks.append(" ".join(parts))
    return chunks
