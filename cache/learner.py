"""What the engine computed becomes labels, index entries and the map's texts: after the reply, from a bounded queue.

A miss's label compares the true vector with the candidate that would have been served; a check's with the one that
was. A verified violation takes the neighbour out of the index and stores the true vector. Answers nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from redis.asyncio import Redis

from cache.exact import ExactTier
from cache.index import SemanticIndex
from cache.keys import Scope
from cache.lookup import Lookup
from cache.metrics import SEMANTIC_LABELS, SEMANTIC_QUEUE_DROPPED
from cache.probe import Int32Array, Probe
from cache.redis_link import RedisAway, RedisLink
from cache.scopes import Scopes

JOBS_AT_ONCE: Final = 64


def cosine_similarity(first: bytes, second: bytes) -> float:
    """Of two stored vectors, float32 bytes of equal length; 0 where one has no length."""
    a, b = np.frombuffer(first, dtype="<f4"), np.frombuffer(second, dtype="<f4")
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A text whose true vector is known now. `is_check`: it verifies a hit."""

    keys: Scope
    digest: bytes
    vector: bytes
    lookup: Lookup | None
    input_ids: Int32Array
    is_check: bool


class Learner:
    """The queue of what is to be learned; `run` must be running. `ttl_s`: life of an index entry."""

    def __init__(
        self,
        link: RedisLink,
        exact: ExactTier,
        index: SemanticIndex,
        probe: Probe,
        scopes: Scopes,
        ttl_s: int,
        max_queued: int,
    ) -> None:
        self._link = link
        self._exact = exact
        self._index = index
        self._probe = probe
        self._scopes = scopes
        self._ttl_s = ttl_s
        self._max_queued = max_queued
        self._jobs: deque[_Job] = deque()
        self._work = asyncio.Event()

    def add(
        self,
        keys: Scope,
        digest: bytes,
        vector: bytes,
        lookup: Lookup | None,
        input_ids: Int32Array,
        is_check: bool = False,
    ) -> None:
        """Queue a computed text for labels and the index; what does not fit is dropped and counted.

        A check always fits: the queue of checks is bounded where they are made.
        """
        if len(self._jobs) >= self._max_queued and not is_check:
            SEMANTIC_QUEUE_DROPPED.inc()
            return
        self._jobs.append(_Job(keys, digest, vector, lookup, input_ids, is_check))
        self._work.set()

    async def run(self) -> None:
        """Turn finished computations into labels and index entries until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._jobs:
                jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), JOBS_AT_ONCE))]
                try:
                    await self._learn(jobs)
                except RedisAway:
                    SEMANTIC_QUEUE_DROPPED.inc(len(jobs))

    async def _learn(self, jobs: list[_Job]) -> None:
        looked_up = [job for job in jobs if job.lookup is not None]
        missed = [job.lookup for job in looked_up if job.lookup and not job.is_check]
        neighbours = list({lookup.neighbour for lookup in missed if lookup.neighbour})
        vectors = await self._exact.get_many(neighbours, len(self._probe.projection)) if neighbours else []
        held = dict(zip(neighbours, vectors, strict=True))
        violated: list[_Job] = []
        for job in looked_up:
            assert job.lookup is not None
            stored = _compared(job, job.lookup, held)
            if job.is_check:
                self._scopes.of(job.keys).on_the_way.arrived(job.lookup.ticket)
            if stored is None:
                self._scopes.of(job.keys).count_empty(0 if job.is_check else 1)
            elif self._label(job, job.lookup, stored):
                violated.append(job)
        for job in violated:
            assert job.lookup is not None
            assert job.lookup.neighbour is not None
            await self._index.remove(job.lookup.neighbour)
        self._exact.put_many([(job.digest, job.vector) for job in violated])
        await self._enter([job for job in jobs if not job.is_check or job in violated])

    def _label(self, job: _Job, lookup: Lookup, stored: bytes) -> bool:
        """Record the true similarity; whether a served vector was below the fidelity."""
        assert lookup.choice is not None
        similarity = cosine_similarity(job.vector, stored)
        is_violation = similarity < lookup.promise.fidelity
        pair = int.from_bytes(job.digest[:4] + (lookup.neighbour or b"")[:3], "big")
        self._scopes.of(job.keys).add_label(pair, lookup, similarity, job.is_check, is_violation)
        kind = "hit" if job.is_check else "miss"
        SEMANTIC_LABELS.labels(kind, "violation" if is_violation else "good").inc()
        return job.is_check and is_violation

    async def _enter(self, jobs: list[_Job]) -> None:
        """Put computed texts into the index; a share of them where the governor says it costs too much."""
        chosen = [job for job in jobs if is_indexed(job.digest, self._scopes.of(job.keys).index_share)]
        if not chosen or not self._index.is_usable:
            return
        started = time.perf_counter()
        vectors = np.stack([np.frombuffer(job.vector, dtype="<f4") for job in chosen])
        projected = self._probe.project(vectors)
        probes = np.stack([j.lookup.probe if j.lookup is not None else self._probe.vector(j.input_ids) for j in chosen])
        for group in _by_tag(chosen).values():
            self._scopes.of(chosen[group[0]].keys).learner.add(probes[group], projected[group])

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as commands:
                for job, probe, vector in zip(chosen, probes, projected, strict=True):
                    self._index.queue_add(commands, job.digest, job.keys.tag, probe, vector, self._ttl_s)
                await commands.execute()

        await self._link.call(write, timeout_s=self._link.write_timeout_s)
        cost_s = (time.perf_counter() - started) / len(chosen)
        for job in chosen:
            self._scopes.of(job.keys).governor.saw_index_write(cost_s)


def _compared(job: _Job, lookup: Lookup, held: dict[bytes, bytes | None]) -> bytes | None:
    """The vector that was served, or that a miss might have been served; None where there was none.

    A text whose exact entry was lost before its index entry finds itself. It could not have been served and is no
    neighbour, and as a label it would vouch for the neighbours of others.
    """
    if job.is_check:
        return lookup.vector
    return None if lookup.neighbour == job.digest else held.get(lookup.neighbour or b"")


def is_indexed(digest: bytes, index_share: float) -> bool:
    """Drawn from the digest, so that a text is in the index for good or never."""
    return int.from_bytes(digest[-4:], "big") < index_share * 2**32


def _by_tag(jobs: Sequence[_Job]) -> dict[str, list[int]]:
    """Places of the jobs of each scope."""
    places: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.keys.tag, []).append(place)
    return places
