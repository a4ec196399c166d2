"""Was what the cache served right? Samples served vectors and requests each text again, computed afresh.

A *false reuse* is a served vector whose cosine similarity to the freshly computed one is below the requested
fidelity. Vectors from the exact tiers must be equal to the byte; where they are not, that is counted too.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.client import Answer, EmbeddingsClient, RequestFailed
from loadtest.figures import cosine_similarity, decode_vector
from loadtest.tiers import HITS

FRESH = "no-store"  # the cache control that makes the server compute
MAX_KEPT = 20_000  # served vectors kept for checking: about 40 MB at 384 dimensions
CONCURRENCY = 8
COSINE_BINS = 100  # of equal width from LOWEST_COSINE to 1; what is lower counts in the first
LOWEST_COSINE = 0.5


@dataclass(frozen=True, slots=True)
class Served:
    """One text's vector as a cache tier served it (base64)."""

    text: str
    tier: str
    vector: str


@dataclass
class Sampler:
    """Keeps a seeded share of what cache tiers served, and all of the tiers in `always` unless that share is 0."""

    share: float
    seed: int = 0
    always: frozenset[str] = frozenset()
    kept: list[Served] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def offer(self, texts: Sequence[str], answer: Answer) -> None:
        """Keep some of the hits of one answer."""
        for text, tier, vector in zip(texts, answer.tiers, answer.vectors, strict=True):
            share = 1.0 if self.share and tier in self.always else self.share
            if tier in HITS and len(self.kept) < MAX_KEPT and self._rng.random() < share:
                self.kept.append(Served(text, tier, vector))


@dataclass(frozen=True, slots=True)
class TierVerdict:
    """What checking found for one tier; `cosine_counts` leaves out what was equal to the byte."""

    checked: int
    same_bytes: int
    below_fidelity: int
    lowest_cosine: float
    cosine_counts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verification:
    """What checking found; `unchecked` counts vectors whose text could not be computed afresh."""

    fidelity: float
    tiers: dict[str, TierVerdict]
    unchecked: int

    @property
    def checked(self) -> int:
        """Served vectors compared with a fresh one."""
        return sum(verdict.checked for verdict in self.tiers.values())

    @property
    def false_reuse_rate(self) -> float | None:
        """Share of the checked vectors below the fidelity; None when none was checked."""
        below = sum(verdict.below_fidelity for verdict in self.tiers.values())
        return below / self.checked if self.checked else None


async def verify(client: EmbeddingsClient, kept: Sequence[Served], fidelity: float) -> Verification:
    """Request each distinct text once, alone and uncached, and compare every kept vector with the answer."""
    fresh = await _compute_afresh(client, sorted({served.text for served in kept}))
    tiers = {}
    for tier in HITS:
        pairs = [(s.vector, fresh[s.text]) for s in kept if s.tier == tier and s.text in fresh]
        if pairs:
            tiers[tier] = judge(pairs, fidelity)
    unchecked = sum(1 for served in kept if served.text not in fresh)
    return Verification(fidelity, tiers, unchecked)


def judge(pairs: Sequence[tuple[str, str]], fidelity: float) -> TierVerdict:
    """Compare served with fresh vectors, both base64; `pairs` is not empty."""
    cosines = [
        1.0 if served == true else cosine_similarity(decode_vector(served), decode_vector(true))
        for served, true in pairs
    ]
    same = sum(served == true for served, true in pairs)
    counts = [0] * COSINE_BINS
    for (served, true), cosine in zip(pairs, cosines, strict=True):
        if served != true:
            place = int((cosine - LOWEST_COSINE) / (1 - LOWEST_COSINE) * COSINE_BINS)
            counts[min(max(place, 0), COSINE_BINS - 1)] += 1
    return TierVerdict(len(pairs), same, sum(c < fidelity for c in cosines), min(cosines), counts)


async def _compute_afresh(client: EmbeddingsClient, texts: Sequence[str]) -> dict[str, str]:
    slots = asyncio.Semaphore(CONCURRENCY)
    fresh: dict[str, str] = {}

    async def request(text: str) -> None:
        async with slots:
            try:
                answer = await client.embed([text], cache_control=FRESH)
            except RequestFailed:
                return
        if answer.tiers[0] not in HITS:  # a hit here would compare the cache with itself
            fresh[text] = answer.vectors[0]

    async with asyncio.TaskGroup() as group:
        for text in texts:
            group.create_task(request(text))
    return fresh
