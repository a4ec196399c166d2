"""What the engine computed becomes labels, index entries and sums of the alignment; a bounded queue, after the reply.

What comes within `GATHER_S` shares its calls to Redis; a verification is processed at once, with all that waits.
A miss's label compares the computed vector with the neighbour that would have been served; a verification's with the
one that was. A verified violation takes the neighbour out of the index and stores the recomputed vector.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from cache.keys import Scope
from cache.metrics import SEMANTIC_LABELS, SEMANTIC_QUEUE_DROPPED
from cache.redis_link import RedisAway
from cache.semantic.index import Index, Neighbour
from cache.semantic.lookup import Lookup, Observation
from cache.semantic.static_embedding import StaticEmbedding
from cache.semantic.sync import Partitions

JOBS_AT_ONCE: Final = 64
GATHER_S: Final = 0.05  # longer than `cache.exact.WRITE_GATHER_S`: what the index names is stored by then


class VectorStore(Protocol):
    """The stored vectors that neighbours stand for, by digest; the exact tier is one."""

    async def get_many(self, digests: Sequence[bytes], dimensions: int) -> list[bytes | None]: ...

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    scope: Scope
    seen: Observation


class Observations:
    """The queue of what was computed; `run` must be running. `ttl_s`: life of an index entry."""

    def __init__(
        self,
        vectors: VectorStore,
        index: Index,
        embedding: StaticEmbedding,
        partitions: Partitions,
        ttl_s: int,
        max_queued: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._vectors = vectors
        self._index = index
        self._embedding = embedding
        self._partitions = partitions
        self._ttl_s = ttl_s
        self._max_queued = max_queued
        self._clock = clock
        self._jobs: deque[_Job] = deque()
        self._work = asyncio.Event()
        self._is_enough = asyncio.Event()
        self._processing = asyncio.Lock()

    def add(self, scope: Scope, observation: Observation) -> None:
        """Queue one observation; what does not fit is dropped and counted.

        A verification always fits: their queue is bounded where they are made.
        """
        if len(self._jobs) >= self._max_queued and not observation.is_verification:
            SEMANTIC_QUEUE_DROPPED.inc()
            return
        self._jobs.append(_Job(scope, observation))
        self._work.set()
        if observation.is_verification or len(self._jobs) >= JOBS_AT_ONCE:
            self._is_enough.set()

    def drop_all(self) -> None:
        """Count what waits as dropped."""
        SEMANTIC_QUEUE_DROPPED.inc(len(self._jobs))
        self._jobs.clear()

    async def run(self) -> None:
        """Process what comes until cancelled."""
        while True:
            await self._work.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._is_enough.wait()
            self._work.clear()
            self._is_enough.clear()
            await self.process_all()

    async def process_all(self) -> None:
        """Process what waits now; what Redis does not take is dropped and counted."""
        async with self._processing:
            while self._jobs:
                jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), JOBS_AT_ONCE))]
                try:
                    await self._process(jobs)
                except RedisAway:
                    SEMANTIC_QUEUE_DROPPED.inc(len(jobs))

    async def _process(self, jobs: list[_Job]) -> None:
        violated = await self._label(jobs)
        for job in violated:
            assert job.seen.lookup is not None
            assert job.seen.lookup.neighbour is not None
            await self._index.remove(job.seen.lookup.neighbour)
        self._vectors.put_many([(job.seen.text.digest, job.seen.vector) for job in violated])
        await self._enter([job for job in jobs if not job.seen.is_verification or job in violated])

    async def _label(self, jobs: list[_Job]) -> list[_Job]:
        """Record a label for each that was looked up; returns those whose served vector was below the fidelity."""
        missed = [job.seen.lookup for job in jobs if not job.seen.is_verification]
        neighbours = list({lookup.neighbour for lookup in missed if lookup is not None and lookup.neighbour})
        vectors = await self._vectors.get_many(neighbours, self._embedding.engine_dimensions) if neighbours else []
        held = dict(zip(neighbours, vectors, strict=True))
        return [job for job in jobs if job.seen.lookup is not None and self._label_one(job, job.seen.lookup, held)]

    def _label_one(self, job: _Job, lookup: Lookup, held: dict[bytes, bytes | None]) -> bool:
        partition, seen = self._partitions.of(job.scope), job.seen
        stored = _compared(seen, lookup, held)
        if seen.is_verification:
            partition.pending.settle(lookup.ticket)
        if stored is None:
            partition.record_empty(1)
            return False
        pair = int.from_bytes(seen.text.digest[:4] + (lookup.neighbour or b"")[:3], "big")
        similarity = cosine_similarity(seen.vector, stored)
        is_violation = partition.record_label(pair, lookup, similarity, seen.is_verification)
        kind = "hit" if seen.is_verification else "miss"
        SEMANTIC_LABELS.labels(kind, "violation" if is_violation else "good").inc()
        return seen.is_verification and is_violation

    async def _enter(self, jobs: list[_Job]) -> None:
        """Put computed texts into the index: all, or the share of them that the cost gate allows."""
        chosen = [job for job in jobs if is_indexed(job.seen.text.digest, self._partitions.of(job.scope).index_share)]
        if not chosen or not self._index.is_usable:
            return
        started = self._clock()
        projected = self._embedding.project(np.stack([np.frombuffer(job.seen.vector, dtype="<f4") for job in chosen]))
        static_vectors = np.stack([self._static_vector(job.seen) for job in chosen])
        for places in _by_tag(chosen).values():
            self._partitions.of(chosen[places[0]].scope).sums.add(static_vectors[places], projected[places])
        rows = zip(chosen, static_vectors, projected, strict=True)
        entries = [(job.scope.tag, Neighbour(job.seen.text.digest, static, vector)) for job, static, vector in rows]
        await self._index.add(entries, self._ttl_s)
        cost_s = (self._clock() - started) / len(chosen)
        for job in chosen:
            self._partitions.of(job.scope).cost_gate.record_index_write(cost_s)

    def _static_vector(self, seen: Observation) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        return self._embedding.vector(seen.text.ids) if seen.lookup is None else seen.lookup.static_vector


def cosine_similarity(first: bytes, second: bytes) -> float:
    """Of two stored vectors, float32 bytes of equal length; 0 where one has no length."""
    a, b = np.frombuffer(first, dtype="<f4"), np.frombuffer(second, dtype="<f4")
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def is_indexed(digest: bytes, index_share: float) -> bool:
    """Drawn from the digest, so that a text is in the index for good or never."""
    return int.from_bytes(digest[-4:], "big") < index_share * 2**32


def _compared(seen: Observation, lookup: Lookup, held: dict[bytes, bytes | None]) -> bytes | None:
    """The vector that was served, or that a miss might have been served; None where there was none.

    A text whose exact entry was lost before its index entry finds itself. It could not have been served and is no
    neighbour; counted as a label it would make other texts' neighbours look better than they are.
    """
    if seen.is_verification:
        return lookup.vector
    return None if lookup.neighbour == seen.text.digest else held.get(lookup.neighbour or b"")


def _by_tag(jobs: Sequence[_Job]) -> dict[str, list[int]]:
    """Places of the jobs of each scope."""
    places: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.scope.tag, []).append(place)
    return places
