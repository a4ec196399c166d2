"""The semantic tier: candidates from the index, a decision on numbers, labels from the truth. Knows no HTTP, no engine.

    look_up   text's probe -> KNN -> z = predicted similarity - margin -> serve the neighbour's vector if z >= tau
    learn     what was computed after all tells how similar the candidate really was: a label; and enters the index

`look_up` writes nothing; learning (`cache.learner`) answers nothing. What is known of a namespace is in `cache.scopes`,
the formulas are in `cache.kriging`, `cache.threshold`, `cache.reuse` and `cache.governor`.
"""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from cache.exact import ExactTier
from cache.governor import GovernorSettings
from cache.index import MAX_TEXTS_AT_ONCE, Candidate, SemanticIndex
from cache.keys import Scope
from cache.learner import Learner, is_indexed
from cache.lookup import Lookup
from cache.metrics import SEMANTIC_LOOKUPS
from cache.probe import Float32Array, Int32Array, Probe
from cache.promise import Promise, SemanticMode
from cache.redis_link import RedisAway, RedisLink
from cache.reuse_state import ScopeState
from cache.scopes import Scopes
from cache.threshold import Predictor, choose, on_check_probability, on_predictor

FIRST_LOOKUPS: Final = 20  # of a scope in this process: what is rationed must first be measured


@dataclass(frozen=True, slots=True)
class SemanticSettings:
    """`ttl_s`: life of an index entry. `verify_share`: least share of `on` hits that are checked."""

    min_text_length: int
    ttl_s: int
    candidates: int = 16
    verify_share: float = 0.1
    max_queued_jobs: int = 4096
    governor: GovernorSettings = field(default_factory=GovernorSettings)


class SemanticTier:
    """The tier for one model. `learner.run`, `scopes.run_sync` and `index.run_checks` must be running."""

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
        self._exact = exact
        self._probe = probe
        self._predictor = Predictor.from_meta(probe.meta)
        self._random = random.Random()  # noqa: S311  draws samples, protects nothing
        self._tickets = itertools.count()
        self.index = index
        self.settings = settings
        self.scopes = Scopes(link, settings.governor, probe_id, probe.dimensions, promise_of)
        self.learner = Learner(link, exact, index, probe, self.scopes, settings.ttl_s, settings.max_queued_jobs)

    def promise(self, namespace: str) -> Promise:
        """What is in force for a namespace now."""
        return self.scopes.promise_of(namespace)

    def lookup_share(self, keys: Scope) -> float:
        """The share of a request's texts to look up: none without an index to ask, in `auto` the governor's."""
        mode = self.scopes.promise_of(keys.namespace).mode
        if mode is SemanticMode.OFF or not self.index.is_usable:
            return 0.0
        if mode is SemanticMode.ON:
            return 1.0
        governor = self.scopes.of(keys).governor
        return 1.0 if governor.lookups < FIRST_LOOKUPS else governor.lookup_share

    def wants(self, text: str, lookup_share: float) -> bool:
        """Whether this text is looked up: long enough, and drawn with the share's probability."""
        return len(text) >= self.settings.min_text_length and self._random.random() < lookup_share

    def index_share(self, keys: Scope) -> float:
        """The share of computed texts that enter the index: all, unless the governor finds that too dear."""
        if self.scopes.promise_of(keys.namespace).mode is SemanticMode.OFF:
            return 0.0
        return self.scopes.of(keys).index_share

    def teaches(self, text: str, digest: bytes, lookup: Lookup | None, index_share: float) -> bool:
        """Whether a computed text is worth `learner.add`: long enough, and looked up or bound for the index."""
        return len(text) >= self.settings.min_text_length and (lookup is not None or is_indexed(digest, index_share))

    async def look_up(self, keys: Scope, texts: Sequence[Int32Array]) -> list[Lookup]:
        """One Lookup a text (token ids), in order; `vector` is set where a neighbour's may be served.

        Many texts are looked up some at a time, so that other requests get their turn.
        """
        scope = self.scopes.of(keys)
        promise = scope.promise
        if scope.is_stale:
            with suppress(RedisAway):  # then nothing is served
                await self.scopes.refresh(scope)
        started = time.perf_counter()
        lookups: list[Lookup] = []
        for start in range(0, len(texts), MAX_TEXTS_AT_ONCE):
            probes = np.stack([self._probe.vector(ids) for ids in texts[start : start + MAX_TEXTS_AT_ONCE]])
            found = await self.index.nearest(keys.tag, probes, self.settings.candidates)
            pairs = zip(probes, found, strict=True)
            lookups += [self._decide(scope, promise, probe, near) for probe, near in pairs]
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

    async def explain(self, keys: Scope, input_ids: Int32Array) -> dict[str, Any]:
        """The candidates of a text and how the decision falls, for people and tests; serves and learns nothing."""
        scope = self.scopes.of(keys)
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
        scope = self.scopes.of(keys)
        return {
            "threshold": {"tau": scope.threshold.tau, "reason": scope.threshold.reason, **scope.served_summary()},
            "certificate": scope.reuse.summary(),
            "governor": {"state": "not asked", "reason": "in mode on every text is looked up"}
            if scope.promise.mode is SemanticMode.ON
            else {"state": scope.governor.state.value, "reason": scope.governor.reason},
            "map": {"texts": 0 if scope.trend is None else scope.trend.texts, "at_hand": scope.has_its_trend},
            "paused": scope.is_paused,
        }

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
        predictor = self._predictor
        if promise.is_cautious:
            predictor = on_predictor(predictor, has_map=scope.trend is not None)
        choice = choose(predictor, probe, probes, vectors, None if scope.trend is None else scope.trend.matrix)
        assert choice is not None
        return replace(lookup, neighbour=near[choice.index].digest, choice=choice, is_checked=is_checked)

    def _check_probability(self, scope: ScopeState) -> float:
        if scope.promise.mode is SemanticMode.ON:
            return on_check_probability(scope.served["checked"], self.settings.verify_share)
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
            self.scopes.keep_promise(scope)
            if self._tau(scope, promise) is not None:
                found = zip(chosen, vectors, strict=True)
                served = {one.ticket: replace(one, vector=vector) for one, vector in found if vector is not None}
        finally:  # also where the client has left
            for one in chosen:
                if one.ticket not in served:
                    scope.on_the_way.arrived(one.ticket)
        scope.count_hits(len(served))
        return [served.get(one.ticket, one) for one in lookups]
