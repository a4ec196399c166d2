"""The semantic tier: candidates from the index, a decision on numbers, labels from the truth. Knows no HTTP, no engine.

    look_up   text's probe -> KNN -> z = predicted similarity - margin -> serve the neighbour's vector if z >= tau
    learn     what was computed after all tells how similar the candidate really was: a label; and enters the index

`look_up` writes nothing and `learn` answers nothing; learning runs after the reply, from a bounded queue. A verified
violation takes the neighbour out of the index, stores the true vector, and stops serving here until the writer of the
scope's state has counted it. The formulas are in `cache.threshold`, `cache.reuse` and `cache.governor`.
"""

import asyncio
import itertools
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from redis.asyncio import Redis

from cache.exact import ExactTier
from cache.governor import GovernorSettings
from cache.index import Candidate, SemanticIndex
from cache.keys import Scope
from cache.metrics import SEMANTIC_LABELS, SEMANTIC_LOOKUPS, SEMANTIC_QUEUE_DROPPED
from cache.probe import Float32Array, Int32Array, Probe
from cache.promise import Promise, SemanticMode
from cache.redis_link import RedisAway, RedisLink
from cache.reuse_log import ReuseLog
from cache.reuse_state import ScopeState
from cache.threshold import Choice, Predictor, choose
from cache.turns import in_turns

log = logging.getLogger("dejavec.cache")

SYNC_INTERVAL_S: Final = 0.5
IDLE_AFTER_S: Final = 60.0
FORGET_AFTER_S: Final = 90.0  # a purged scope: by then every gateway has followed and its scope is idle
MAX_ENDED: Final = 10_000
MAX_SCOPES: Final = 256  # each holds up to 1 MB of what it has learned
JOBS_AT_ONCE: Final = 64
FIRST_LOOKUPS: Final = 20  # of a scope in this process: what is rationed must first be measured


def cosine_similarity(first: bytes, second: bytes) -> float:
    """Of two stored vectors, float32 bytes of equal length; 0 where one has no length."""
    a, b = np.frombuffer(first, dtype="<f4"), np.frombuffer(second, dtype="<f4")
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SemanticSettings:
    """`ttl_s`: life of an index entry. `verify_share`: least share of `on` hits that are checked."""

    min_text_length: int
    ttl_s: int
    candidates: int = 16
    verify_share: float = 0.1
    max_queued_jobs: int = 4096
    governor: GovernorSettings = field(default_factory=GovernorSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """What one look-up found: the best candidate, the tau it met, and the vector when it is served.

    `promise`: what was in force when it was decided, which its label is judged by.
    """

    probe: Float32Array
    promise: Promise
    neighbour: bytes | None = None
    choice: Choice | None = None
    tau: float | None = None
    version: int = 0
    probability: float = 1.0  # with which a hit of this moment is checked
    vector: bytes | None = None  # float32 bytes, when served
    is_checked: bool = False
    ticket: int = 0  # of this look-up, in this process

    @property
    def clears(self) -> bool:
        """Whether the best candidate may be served, if its vector is still there."""
        return self.choice is not None and self.tau is not None and self.choice.z >= self.tau


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A text whose true vector is known now. `is_check`: it verifies a hit."""

    keys: Scope
    digest: bytes
    vector: bytes
    lookup: Lookup | None
    input_ids: Int32Array
    is_check: bool


class SemanticTier:
    """The tier for one model. `run_learner`, `run_sync` and the index's `run_checks` must be running.

    `promise_of` names what is in force for a namespace; it is asked at every step, and an answer that has changed is
    adopted then.
    """

    def __init__(
        self,
        link: RedisLink,
        exact: ExactTier,
        index: SemanticIndex,
        probe: Probe,
        probe_id: str,
        settings: SemanticSettings,
        promise_of: Callable[[str], Promise],
    ) -> None:
        self._link = link
        self._exact = exact
        self._probe = probe
        self._probe_id = probe_id
        self._predictor = Predictor.from_meta(probe.meta)
        self._cautious = self._predictor.cautious
        self._log = ReuseLog(link)
        self._scopes: OrderedDict[str, ScopeState] = OrderedDict()
        self._ended: deque[tuple[float, str]] = deque(maxlen=MAX_ENDED)  # purged scopes: when, and their tag
        self._jobs: deque[_Job] = deque()
        self._work = asyncio.Event()
        self._random = random.Random()  # noqa: S311  draws samples, protects nothing
        self._tickets = itertools.count()
        self._promise_of = promise_of
        self.index = index
        self.settings = settings

    def promise(self, namespace: str) -> Promise:
        """What is in force for a namespace now."""
        return self._promise_of(namespace)

    def lookup_share(self, keys: Scope) -> float:
        """The share of a request's texts to look up: none without an index to ask, in `auto` the governor's."""
        mode = self._promise_of(keys.namespace).mode
        if mode is SemanticMode.OFF or not self.index.is_usable:
            return 0.0
        if mode is SemanticMode.ON:
            return 1.0
        governor = self.scope(keys).governor
        return 1.0 if governor.lookups < FIRST_LOOKUPS else governor.lookup_share

    def wants(self, text: str, lookup_share: float) -> bool:
        """Whether this text is looked up: long enough, and drawn with the share's probability."""
        return len(text) >= self.settings.min_text_length and self._random.random() < lookup_share

    def index_share(self, keys: Scope) -> float:
        """The share of computed texts that enter the index: all, unless the governor finds that too dear."""
        mode = self._promise_of(keys.namespace).mode
        if mode is SemanticMode.OFF:
            return 0.0
        return 1.0 if mode is SemanticMode.ON else self.scope(keys).governor.index_share

    def teaches(self, text: str, digest: bytes, lookup: Lookup | None, index_share: float) -> bool:
        """Whether a computed text is worth `learn`: long enough, and looked up or bound for the index."""
        return len(text) >= self.settings.min_text_length and (lookup is not None or _is_indexed(digest, index_share))

    async def look_up(self, keys: Scope, texts: Sequence[Int32Array]) -> list[Lookup]:
        """One Lookup a text (token ids), in order; `vector` is set where a neighbour's may be served.

        At most `MAX_TEXTS_PER_LOOKUP` texts.
        """
        scope = self.scope(keys)
        promise = scope.promise
        if scope.is_stale:
            with suppress(RedisAway):  # then nothing is served
                await scope.load_state(self._log)
        started = time.perf_counter()
        probes = np.stack([self._probe.vector(ids) async for ids in in_turns(texts)])
        found = await self.index.nearest(keys.tag, probes, self.settings.candidates)
        pairs = in_turns(zip(probes, found, strict=True))
        lookups = [self._decide(scope, promise, probe, near) async for probe, near in pairs]
        lookups = await self._fetch(scope, promise, lookups)
        cost_s = (time.perf_counter() - started) / len(texts)
        may_serve = self._tau(scope, promise) is not None
        loosest_z = promise.reuse.levels()[-1]
        for lookup in lookups:
            would_hit = lookup.vector is not None
            is_near = lookup.choice is not None and lookup.choice.z >= loosest_z
            scope.governor.saw_lookup(cost_s, would_hit, lookup.probability, may_serve, is_near)
            SEMANTIC_LOOKUPS.labels("hit" if would_hit else "miss").inc()
        return lookups

    def learn(
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
        if self._promise_of(keys.namespace).mode is SemanticMode.OFF:
            return
        if len(self._jobs) >= self.settings.max_queued_jobs and not is_check:
            SEMANTIC_QUEUE_DROPPED.inc()
            return
        self._jobs.append(_Job(keys, digest, vector, lookup, input_ids, is_check))
        self._work.set()

    def still_checks(self, keys: Scope, lookup: Lookup) -> None:
        """The check of a hit waits for the engine: it is not lost."""
        if (scope := self._scopes.get(keys.tag)) is not None:
            scope.still_on_its_way(lookup)

    def saw_engine(self, keys: Scope, seconds_per_text: float) -> None:
        """What the engine costs, for the governor."""
        self.scope(keys).governor.saw_engine(seconds_per_text)

    def scope(self, keys: Scope) -> ScopeState:
        """What is known of a scope, by the promise in force now; the least recently used ones are forgotten here, those
        first that have told all they know (their state stays in Redis)."""
        scope = self._scopes.get(keys.tag)
        if scope is None:
            scope = self._scopes[keys.tag] = self._new_scope(keys)
            while len(self._scopes) > MAX_SCOPES:
                told = (tag for tag, one in self._scopes.items() if one is not scope and not one.has_news)
                self._scopes.pop(next(told, next(iter(self._scopes))))
        scope.used_at = time.monotonic()
        self._scopes.move_to_end(keys.tag)
        self._keep_promise(scope)
        return scope

    def forget(self, keys: Scope) -> None:
        """A purge has ended this scope: drop what was learned, in Redis once every gateway has left it."""
        self._scopes.pop(keys.tag, None)
        self._ended.append((time.monotonic(), keys.tag))

    async def shared_state(self, keys: Scope) -> ScopeState:
        """What all gateways together know of a scope, its map left out, read anew and kept by nobody.

        Raises RedisAway.
        """
        scope = self._new_scope(keys)
        await scope.load_state(self._log)
        return scope

    async def explain(self, keys: Scope, input_ids: Int32Array) -> dict[str, Any]:
        """The candidates of a text and how the decision falls, for people and tests; serves and learns nothing."""
        scope = self.scope(keys)
        promise = scope.promise
        probe = self._probe.vector(input_ids)
        (near,) = await self.index.nearest(keys.tag, probe[None], self.settings.candidates)
        lookup = self._decide(scope, promise, probe, near)
        return {
            "mode": promise.mode.value,
            "fidelity": promise.fidelity,
            "index": {"kind": self.index.kind, "documents": self.index.documents},
            "candidates": [
                {"entry": c.digest.hex(), "probe_similarity": round(float(c.probe @ probe), 6)} for c in near
            ],
            "best": None
            if lookup.choice is None or lookup.neighbour is None
            else {
                "entry": lookup.neighbour.hex(),
                "probe_similarity": round(lookup.choice.probe_similarity, 6),
                "predicted_similarity": round(lookup.choice.similarity, 6),
                "margin": round(lookup.choice.margin, 6),
                "z": round(lookup.choice.z, 6),
            },
            "tau": lookup.tau,
            "serve": lookup.clears,
            **self.summary(keys),
        }

    def summary(self, keys: Scope) -> dict[str, Any]:
        """Threshold, certificate and governor of a scope."""
        scope = self.scope(keys)
        return {
            "threshold": {"tau": scope.threshold.tau, "reason": scope.threshold.reason, **scope.served_summary()},
            "certificate": scope.reuse.summary(),
            "governor": {"state": scope.governor.state.value, "reason": scope.governor.reason},
            "map": {"texts": 0 if scope.trend is None else scope.trend.texts, "at_hand": scope.has_its_trend},
            "paused": scope.is_paused,
        }

    async def run_learner(self) -> None:
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

    async def run_sync(self) -> None:
        """Exchange labels and states with the other gateways until cancelled."""
        while True:
            await asyncio.sleep(SYNC_INTERVAL_S)
            now = time.monotonic()
            for scope in [one for one in self._scopes.values() if now - one.used_at < IDLE_AFTER_S or one.has_news]:
                self._keep_promise(scope)
                try:
                    await scope.sync(self._log)
                except RedisAway:
                    if self._link.state != "ok":
                        break
            while self._ended and now - self._ended[0][0] >= FORGET_AFTER_S:
                try:
                    await self._log.forget(self._ended[0][1])
                except RedisAway:
                    break
                self._ended.popleft()

    def _new_scope(self, keys: Scope) -> ScopeState:
        promise = self._promise_of(keys.namespace)
        return ScopeState(keys, promise, self.settings.governor, self._probe_id, self._probe.dimensions)

    def _keep_promise(self, scope: ScopeState) -> None:
        promise = self._promise_of(scope.keys.namespace)
        if promise is not scope.promise:
            scope.adopt(promise)

    def _tau(self, scope: ScopeState, promise: Promise) -> float | None:
        """From which z on a look-up begun under this promise may be served; None, also where another came since."""
        if scope.promise is not promise:
            return None
        if promise.mode is SemanticMode.ON:
            return scope.threshold.tau
        may_serve = scope.has_its_trend and not scope.is_stale and not scope.is_paused
        if promise.mode is SemanticMode.AUTO and may_serve:
            return scope.reuse.tau
        return None

    def _decide(self, scope: ScopeState, promise: Promise, probe: Float32Array, near: list[Candidate]) -> Lookup:
        """The best candidate and the tau it must clear; whether its hit would be checked is drawn here, before all."""
        probability = self._check_probability(scope)
        is_checked = self._random.random() < probability
        tau = self._tau(scope, promise)
        ticket = next(self._tickets)
        lookup = Lookup(probe, promise, tau=tau, version=scope.version, probability=probability, ticket=ticket)
        if not near:
            return lookup
        probes, vectors = np.stack([c.probe for c in near]), np.stack([c.projected for c in near])
        predictor = self._cautious if promise.is_cautious else self._predictor
        choice = choose(predictor, probe, probes, vectors, None if scope.trend is None else scope.trend.matrix)
        assert choice is not None
        return replace(lookup, neighbour=near[choice.index].digest, choice=choice, is_checked=is_checked)

    def _check_probability(self, scope: ScopeState) -> float:
        if scope.promise.mode is SemanticMode.ON:
            return max(self.settings.verify_share, scope.early_check_probability)
        return scope.reuse.verify_probability

    async def _fetch(self, scope: ScopeState, promise: Promise, lookups: list[Lookup]) -> list[Lookup]:
        """The stored vectors of those that clear tau; an entry that is gone makes the hit a miss, and so does a promise
        that changed, or a violation that was found, meanwhile."""
        chosen = [one for one in lookups if one.clears and scope.admits(one)]
        if not chosen:
            return lookups
        neighbours = [one.neighbour for one in chosen if one.neighbour is not None]
        served: dict[int, Lookup] = {}
        try:
            vectors = await self._exact.get_many(neighbours, len(self._probe.projection))
            self._keep_promise(scope)
            if self._tau(scope, promise) is not None:
                found = zip(chosen, vectors, strict=True)
                served = {one.ticket: replace(one, vector=vector) for one, vector in found if vector is not None}
        finally:  # also where the client has left
            for one in chosen:
                if one.ticket not in served:
                    scope.arrived(one)
        scope.count_hits(len(served))
        return [served.get(one.ticket, one) for one in lookups]

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
                self.scope(job.keys).arrived(job.lookup)
            if stored is None:
                self.scope(job.keys).count_empty(0 if job.is_check else 1)
            elif self._label(job, job.lookup, stored):
                violated.append(job)
        for job in violated:
            assert job.lookup is not None
            assert job.lookup.neighbour is not None
            await self.index.remove(job.lookup.neighbour)
        self._exact.put_many([(job.digest, job.vector) for job in violated])
        await self._index([job for job in jobs if not job.is_check or job in violated])

    def _label(self, job: _Job, lookup: Lookup, stored: bytes) -> bool:
        """Record the true similarity; whether a served vector was below the fidelity."""
        assert lookup.choice is not None
        similarity = cosine_similarity(job.vector, stored)
        is_violation = similarity < lookup.promise.fidelity
        pair = int.from_bytes(job.digest[:4] + (lookup.neighbour or b"")[:3], "big")
        self.scope(job.keys).add_label(pair, lookup, similarity, job.is_check, is_violation)
        kind = "hit" if job.is_check else "miss"
        SEMANTIC_LABELS.labels(kind, "violation" if is_violation else "good").inc()
        return job.is_check and is_violation

    async def _index(self, jobs: list[_Job]) -> None:
        """Put computed texts into the index; a share of them where the governor says it costs too much."""
        chosen = [job for job in jobs if _is_indexed(job.digest, self.index_share(job.keys))]
        if not chosen or not self.index.is_usable:
            return
        started = time.perf_counter()
        vectors = np.stack([np.frombuffer(job.vector, dtype="<f4") for job in chosen])
        projected = self._probe.project(vectors)
        probes = np.stack([j.lookup.probe if j.lookup is not None else self._probe.vector(j.input_ids) for j in chosen])
        for group in _by_tag(chosen).values():
            self.scope(chosen[group[0]].keys).learner.add(probes[group], projected[group])

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as commands:
                for job, probe, vector in zip(chosen, probes, projected, strict=True):
                    self.index.queue_add(commands, job.digest, job.keys.tag, probe, vector, self.settings.ttl_s)
                await commands.execute()

        await self._link.call(write, timeout_s=max(1.0, 4 * self._link.timeout_s))
        cost_s = (time.perf_counter() - started) / len(chosen)
        for job in chosen:
            self.scope(job.keys).governor.saw_index_write(cost_s)


def _compared(job: _Job, lookup: Lookup, held: dict[bytes, bytes | None]) -> bytes | None:
    """The vector that was served, or that a miss might have been served; None where there was none.

    A text whose exact entry was lost before its index entry finds itself. It could not have been served and is no
    neighbour, and as a label it would vouch for the neighbours of others.
    """
    if job.is_check:
        return lookup.vector
    return None if lookup.neighbour == job.digest else held.get(lookup.neighbour or b"")


def _is_indexed(digest: bytes, index_share: float) -> bool:
    """Drawn from the digest, so that a text is in the index for good or never."""
    return int.from_bytes(digest[-4:], "big") < index_share * 2**32


def _by_tag(jobs: Sequence[_Job]) -> dict[str, list[int]]:
    """Places of the jobs of each scope."""
    places: dict[str, list[int]] = {}
    for place, job in enumerate(jobs):
        places.setdefault(job.keys.tag, []).append(place)
    return places
