"""The semantic tier of one model: the one entrance to this package.

    look_up   a request's texts -> static vectors -> neighbours -> z = predicted similarity - margin * spread
              -> the neighbour's own vector is served where z >= tau
    observe   what the engine computed, for a miss or to verify a hit -> labels, index entries, alignment matrix

`look_up` writes nothing; `observe` queues, and processes after the reply. `start` and `stop` bound a tier's life.
`explain`, `summary`, `learned` and `calibration` are for operators.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from cache.keys import Scope
from cache.metrics import SEMANTIC_LOOKUPS, SEMANTIC_QUEUE_DROPPED
from cache.redis_link import RedisAway, RedisLink
from cache.semantic.calibration import SHOWN_FIDELITIES, reading
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.exchange import Exchange, RedisExchange
from cache.semantic.figures import PartitionFigures, figures_of
from cache.semantic.index import MAX_TEXTS_AT_ONCE, Index, Neighbour, RedisIndex
from cache.semantic.lookup import Lookup, Observation, Text, belonging
from cache.semantic.observation import Observations, VectorStore, cosine_similarity, is_indexed
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.predictor import Choice, Predictor, choose
from cache.semantic.static_embedding import Float32Array, Int32Array, StaticEmbedding, StaticEmbeddingError
from cache.semantic.sync import Partitions
from common.tasks import cancel_and_wait

__all__ = [
    "Lookup",
    "Observation",
    "PartitionFigures",
    "SemanticSettings",
    "SemanticTier",
    "StaticEmbeddingError",
    "Text",
]

FINAL_FLUSH_S: Final = 2.0  # of each of its two parts

Loop = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SemanticSettings:
    """`ttl_s`: life of an index entry. `verify_share`: least share of hits that are checked in mode `on`.

    `hnsw_from`, `index_timeout_s`: as `RedisIndex` takes them.
    """

    min_text_length: int
    ttl_s: int
    candidates: int = 16
    verify_share: float = 0.1
    max_queued: int = 4096
    engine_price_s: float | None = None
    hnsw_from: int = 20_000
    index_timeout_s: float = 0.05
    cost_gate: CostGateSettings = field(default_factory=CostGateSettings)

    @property
    def cost_gate_priced(self) -> CostGateSettings:
        """The cost gate's settings with the price of a text, where one is set."""
        return replace(self.cost_gate, engine_price_s=self.engine_price_s)


class SemanticTier:
    """`policy_of` gives the policy in force for a namespace. `clock` and `draw` are replaced in simulations."""

    def __init__(
        self,
        index: Index,
        vectors: VectorStore,
        exchange: Exchange,
        embedding: StaticEmbedding,
        embedding_id: str,
        settings: SemanticSettings,
        policy_of: Callable[[str], Policy],
        clock: Callable[[], float] = time.perf_counter,
        draw: Callable[[], float] = random.random,
        new_partition: Callable[..., Partition] = Partition,
    ) -> None:
        self._index = index
        self._vectors = vectors
        self._embedding = embedding
        self._settings = settings
        self._clock = clock
        self._draw = draw
        self._predictor = Predictor.from_meta(embedding.meta)
        self._tickets = itertools.count()
        self._partitions = Partitions(
            exchange, settings.cost_gate_priced, embedding_id, embedding.dimensions, policy_of, new_partition
        )
        self._observations = Observations(
            vectors, index, embedding, self._partitions, settings.ttl_s, settings.max_queued, clock
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._has_ended = False

    @classmethod
    def in_redis(
        cls,
        link: RedisLink,
        secret: bytes,
        vectors: VectorStore,
        model: tuple[str, str, bytes],
        settings: SemanticSettings,
        policy_of: Callable[[str], Policy],
    ) -> "SemanticTier":
        """The tier of a model, given by fingerprint, hash and content of its static embedding, all gateways' through
        Redis. Raises StaticEmbeddingError."""
        fingerprint, embedding_hash, content = model
        embedding, embedding_id = StaticEmbedding.from_bytes(content), embedding_hash[:16]
        index = RedisIndex(
            link,
            secret,
            f"{fingerprint[:16]}{embedding_id}",
            embedding.dimensions,
            settings.hnsw_from,
            settings.index_timeout_s,
        )
        return cls(index, vectors, RedisExchange(link, secret), embedding, embedding_id, settings, policy_of)

    async def look_up(self, scope: Scope, texts: Sequence[Text], min_fidelity: float = 0.0) -> list[Lookup | None]:
        """One Lookup a text, in order; `vector` is set where a neighbour's may be served.

        None for a text that is not looked up: it is too short, the cost gate leaves it out, the index is not usable,
        or the namespace's policy is `off` or of a fidelity below `min_fidelity`.
        """
        found: list[Lookup | None] = [None] * len(texts)
        policy = self._partitions.policy_of(scope.namespace)
        if policy.mode is SemanticMode.OFF or min_fidelity > policy.fidelity or not self._index.is_usable:
            return found
        partition = self._partitions.of(scope)
        share, least = partition.lookup_share, self._settings.min_text_length
        wanted = [place for place, text in enumerate(texts) if text.chars >= least and self._is_drawn(share)]
        if wanted:
            lookups = await self._look_up(partition, [texts[place].ids for place in wanted])
            for place, lookup in zip(wanted, lookups, strict=True):
                found[place] = lookup
        return found

    def observe(self, scope: Scope, observations: Sequence[Observation], engine_s: float | None = None) -> None:
        """What the engine computed, processed later. `engine_s`: its time a text, where this was work for a request."""
        if self._has_ended:
            SEMANTIC_QUEUE_DROPPED.inc(len(observations))
            return
        partition = self._partitions.of(scope)
        if engine_s is not None:
            partition.cost_gate.record_engine(engine_s)
        index_share = 0.0 if partition.policy.mode is SemanticMode.OFF else partition.index_share
        for one in observations:
            if one.is_verification or self._is_worth_keeping(one, index_share):
                self._observations.add(scope, one)

    async def process_observed(self) -> None:
        """Process what was observed so far now, where the loops of `start` are not running."""
        await self._observations.process_all()

    def keep_pending(self, scope: Scope, lookup: Lookup) -> None:
        """The vector that verifies this hit is still to come, however long the engine is away."""
        self._partitions.keep_pending(scope, lookup)

    def forget(self, scope: Scope) -> None:
        """A purge has ended this scope: drop what was learned."""
        self._partitions.forget(scope)

    def start(self, keep_running: Callable[[Loop], Coroutine[Any, Any, None]]) -> None:
        """Start the loops of the index, of observations and of the exchange; `keep_running` restarts what fails."""
        loops: tuple[Loop, ...] = (self._index.run_checks, self._observations.run, self._partitions.run_sync)
        self._tasks = [asyncio.create_task(keep_running(loop)) for loop in loops]

    async def stop(self) -> None:
        """End the loops with a final flush, bounded: process what was observed, then send what is held here alone.

        What is observed after this call is dropped and counted.
        """
        self._has_ended = True
        with suppress(TimeoutError):
            async with asyncio.timeout(FINAL_FLUSH_S):
                await self._observations.process_all()
        await cancel_and_wait(self._tasks)
        self._observations.drop_all()
        with suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(FINAL_FLUSH_S):
                await self._partitions.flush()

    async def explain(
        self, scope: Scope, input_ids: Int32Array, recompute: Callable[[], Awaitable[bytes]] | None = None
    ) -> dict[str, Any]:
        """The neighbours of a text and how the decision falls, for people and tests; serves and records nothing.

        `recompute` gets the engine's vector of the text; its true similarity then stands beside the predicted one.
        """
        partition = self._partitions.of(scope)
        policy = partition.policy
        static_vector = self._embedding.vector(input_ids)
        (near,) = await self._index.nearest(scope.tag, static_vector[None], self._settings.candidates)
        lookup = self._decide(partition, policy, static_vector, near)
        best = _best(lookup)
        if best is not None and lookup.neighbour is not None and recompute is not None:
            recomputed = await recompute()
            (stored,) = await self._vectors.get_many([lookup.neighbour], self._embedding.engine_dimensions)
            best["true_similarity"] = None if stored is None else round(cosine_similarity(recomputed, stored), 6)
        return {
            "mode": policy.mode.value,
            "fidelity": policy.fidelity,
            "index": {"kind": self._index.kind, "documents": self._index.documents},
            "candidates": [
                {"entry": one.digest.hex(), "static_similarity": round(float(one.static_vector @ static_vector), 6)}
                for one in near
            ],
            "best": best,
            "tau": lookup.tau,
            "serve": lookup.clears,
            **self.summary(scope),
        }

    def summary(self, scope: Scope) -> dict[str, Any]:
        """Threshold, certificate, cost gate and alignment matrix of a scope's partition, as this gateway holds them."""
        partition = self._partitions.of(scope)
        gate, alignment = partition.cost_gate, partition.alignment
        return {
            "threshold": {"tau": partition.threshold.tau, "reason": partition.threshold.reason, **partition.served},
            "certificate": partition.certifier.summary(),
            "cost_gate": {"state": "not used", "reason": "in mode on every text is looked up"}
            if partition.policy.mode is SemanticMode.ON
            else {"state": gate.state.value, "reason": gate.reason},
            "alignment": {
                "texts": 0 if alignment is None else alignment.texts,
                "is_current": partition.has_its_alignment,
            },
            "paused": partition.is_paused,
        }

    def figures(self) -> list[PartitionFigures]:
        """What metrics show of each namespace that this gateway holds something of."""
        return figures_of(self._partitions.held())

    @property
    def index_documents(self) -> int:
        """Documents in the index."""
        return self._index.documents

    @property
    def index_failures(self) -> int:
        """Documents that could not be indexed."""
        return self._index.failures

    async def learned(self, scope: Scope) -> dict[str, Any]:
        """Thresholds and counts that all gateways share, read anew. Raises RedisAway."""
        shared = await self._partitions.shared(scope)
        return {
            "serving_from": shared.serving_from,
            "tau": shared.threshold.tau,
            "reason": shared.threshold.reason,
            "certificate_tau": shared.certifier.tau,
            "certificate_phase": shared.certifier.phase,
            **shared.served,
        }

    async def calibration(self, scope: Scope, policy: Policy) -> dict[str, Any]:
        """The label table that all gateways share, and its curve, read by a policy. Raises RedisAway."""
        shared = await self._partitions.shared(scope)
        table, fidelity = shared.table, policy.fidelity
        return {
            "mode": policy.mode.value,
            "fidelity": fidelity,
            "tau": shared.serving_from,
            "labels": round(table.labels),
            "lookups": round(table.total, 3),
            "without_candidate": round(table.empty, 3),
            "bins": table.bins(),
            "curve": table.curve(tuple(sorted({*SHOWN_FIDELITIES, fidelity}))),
            "reading": reading(table, shared.serving_from, fidelity, policy.alpha),
        }

    def _is_drawn(self, share: float) -> bool:
        return share >= 1 or self._draw() < share

    def _is_worth_keeping(self, one: Observation, index_share: float) -> bool:
        """Whether a computed text makes a label or an index entry."""
        if one.text.chars < self._settings.min_text_length:
            return False
        return one.lookup is not None or is_indexed(one.text.digest, index_share)

    async def _look_up(self, partition: Partition, texts: Sequence[Int32Array]) -> list[Lookup]:
        """Look up token ids, some texts at a time, so that other requests get their turn."""
        policy = partition.policy
        if partition.is_stale:
            with suppress(RedisAway):  # then nothing is served
                await self._partitions.refresh(partition)
        started = self._clock()
        lookups: list[Lookup] = []
        for start in range(0, len(texts), MAX_TEXTS_AT_ONCE):
            vectors = np.stack([self._embedding.vector(ids) for ids in texts[start : start + MAX_TEXTS_AT_ONCE]])
            found = await self._index.nearest(partition.scope.tag, vectors, self._settings.candidates)
            pairs = zip(vectors, found, strict=True)
            lookups += [self._decide(partition, policy, vector, near) for vector, near in pairs]
        lookups = await self._fetch(partition, policy, lookups)
        self._record(partition, policy, lookups, (self._clock() - started) / len(texts))
        return lookups

    def _record(self, partition: Partition, policy: Policy, lookups: list[Lookup], cost_s: float) -> None:
        """Report look-ups to the cost gate and the metrics."""
        may_serve = partition.tau(policy) is not None
        loosest_z = policy.certifier.levels()[-1]
        for lookup in lookups:
            is_hit = lookup.vector is not None
            is_near = lookup.choice is not None and lookup.choice.z >= loosest_z
            partition.cost_gate.record_lookup(cost_s, is_hit, lookup.probability, may_serve, is_near)
            SEMANTIC_LOOKUPS.labels("hit" if is_hit else "miss").inc()

    def _decide(
        self, partition: Partition, policy: Policy, static_vector: Float32Array, near: list[Neighbour]
    ) -> Lookup:
        """The best neighbour and the tau it must clear; whether its hit will be checked is drawn here, before all."""
        tau = partition.tau(policy)
        probability = partition.verify_probability(self._settings.verify_share)
        choice = self._choose(partition, policy, static_vector, near)
        clears = choice is not None and tau is not None and choice.z >= tau
        return Lookup(
            static_vector,
            policy,
            neighbour=None if choice is None else near[choice.index].digest,
            projected=None if choice is None else near[choice.index].projected,
            choice=choice,
            tau=tau,
            version=partition.version,
            probability=probability,
            is_checked=clears and self._draw() < probability,
            ticket=next(self._tickets),
        )

    def _choose(
        self, partition: Partition, policy: Policy, static_vector: Float32Array, near: list[Neighbour]
    ) -> Choice | None:
        """The best neighbour by the partition's alignment matrix, with the policy's margin."""
        if not near:
            return None
        matrix = None if partition.alignment is None else partition.alignment.matrix
        predictor = self._predictor.in_mode_on(matrix is not None) if policy.is_cautious else self._predictor
        neighbours, projected = np.stack([one.static_vector for one in near]), np.stack([one.projected for one in near])
        return choose(predictor, static_vector, neighbours, projected, matrix)

    async def _fetch(self, partition: Partition, policy: Policy, lookups: list[Lookup]) -> list[Lookup]:
        """The stored vectors of those that clear tau; an entry that is gone makes the hit a miss, and so does a policy
        that changed, or a violation that was found, meanwhile."""
        chosen = [one for one in lookups if one.clears and partition.admits(one)]
        if not chosen:
            return lookups
        neighbours = [one.neighbour for one in chosen if one.neighbour is not None]
        served: dict[int, Lookup] = {}
        try:
            vectors = await self._vectors.get_many(neighbours, self._embedding.engine_dimensions)
            self._partitions.follow_policy(partition)
            if partition.tau(policy) is not None:
                found = zip(chosen, belonging(self._embedding, chosen, vectors), strict=True)
                served = {one.ticket: replace(one, vector=vector) for one, vector in found if vector is not None}
        finally:  # also where the client has left
            for one in chosen:
                if one.ticket not in served:
                    partition.pending.settle(one.ticket)
        partition.record_hits(len(served))
        return [served.get(one.ticket, one) for one in lookups]


def _best(lookup: Lookup) -> dict[str, Any] | None:
    """The best neighbour as `explain` shows it."""
    if lookup.choice is None or lookup.neighbour is None:
        return None
    return {
        "entry": lookup.neighbour.hex(),
        "static_similarity": round(lookup.choice.static_similarity, 6),
        "predicted_similarity": round(lookup.choice.similarity, 6),
        "margin": round(lookup.choice.margin, 6),
        "z": round(lookup.choice.z, 6),
    }
