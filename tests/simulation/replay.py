"""One stream through the product's semantic tier, without Redis: exact neighbours, the engine's true vectors.

The tier decides and learns as in service. What stands around it here is in memory: neighbours and vectors are read off
a prepared stream, labels arrive a few requests late, time passes by fixed costs. `Simplified` names where a partition
is simpler than in service; `--in-service` takes it away.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cache.keys import Scope
from cache.semantic.alignment import AlignmentSums
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.events import Event
from cache.semantic.in_memory import InMemoryExchange
from cache.semantic.index import Neighbour
from cache.semantic.lookup import Lookup, Observation, Text
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.static_embedding import Int32Array, StaticEmbedding
from cache.semantic.threshold import verify_probability
from cache.semantic.tier import SemanticSettings, SemanticTier
from tests.simulation.streams import Float32Array, Stream

SPARE = 40  # nearest earlier texts kept a text; those not in the index are skipped
LABEL_LAG = 4  # labels that are under way at any time
FITTED_AT_ONCE = 32  # computed texts enter the alignment's sums so many at a time


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds: the engine's time a text, a look-up (static vector, decision, one KNN), an index write."""

    engine_s: float
    lookup_s: float = 0.00055
    index_s: float = 0.0001


@dataclass(frozen=True, slots=True)
class Prepared:
    """What does not depend on decisions: distinct texts in order of arrival with their earlier nearest.

    static_vectors, projected: float32[n, d]; vectors: float32[n, dimensions]; near: int[n, SPARE], -1 where there is
    none.
    """

    name: str
    order: npt.NDArray[np.int64]
    ids: list[Int32Array]
    static_vectors: Float32Array
    projected: Float32Array
    vectors: Float32Array
    near: npt.NDArray[np.int64]
    embedding: StaticEmbedding
    measured_from: int


def prepare(stream: Stream, embedding: StaticEmbedding) -> Prepared:
    """Static vectors, projected vectors and earlier nearest neighbours of a stream."""
    arrival: dict[int, int] = {}
    order = np.array([arrival.setdefault(int(text), len(arrival)) for text in stream.order])
    rows = list(arrival)
    ids = [stream.ids[row][1:-1] for row in rows]
    static_vectors = np.stack([embedding.vector(one) for one in ids])
    vectors = stream.vectors[rows]
    near, projected = earlier_nearest(static_vectors), embedding.project(vectors)
    return Prepared(stream.name, order, ids, static_vectors, projected, vectors, near, embedding, stream.measured_from)


def earlier_nearest(static_vectors: Float32Array, count: int = SPARE) -> npt.NDArray[np.int64]:
    """For each row the `count` most similar earlier rows, nearest first, padded with -1."""
    n = len(static_vectors)
    out = np.full((n, count), -1, dtype=np.int64)
    for start in range(0, n, 1024):
        end = min(n, start + 1024)
        near = static_vectors[start:end] @ static_vectors[:end].T
        near[np.arange(end)[None, :] >= np.arange(start, end)[:, None]] = -2
        kept = min(count, end)
        best = np.argpartition(-near, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(near, best, axis=1)
        by_value = np.argsort(-values, axis=1)
        best, values = np.take_along_axis(best, by_value, axis=1), np.take_along_axis(values, by_value, axis=1)
        out[start:end, :kept] = np.where(values > -1.5, best, -1)
    return out


@dataclass(slots=True)
class Outcome:
    """What one run did, over the requests that the exact tier did not answer."""

    requests: int = 0
    lookups: int = 0
    hits: int = 0
    violations: int = 0
    checks: int = 0
    labels: int = 0
    openings: int = 0
    saved_s: float = 0.0
    saved_before_s: float = 0.0
    first_hit_labels: int | None = None
    first_hit_request: int | None = None
    violations_at_openings: list[int] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)  # the true one of each hit
    tau: float | None = None  # at the end

    @property
    def net_ms(self) -> float:
        """Milliseconds gained a request."""
        return self.saved_s / max(self.requests, 1) * 1e3

    @property
    def net_ms_after_first_hit(self) -> float:
        """Milliseconds gained a request from the first hit on: what a longer stream comes closer to."""
        if self.first_hit_request is None:
            return 0.0
        return (self.saved_s - self.saved_before_s) / max(1, self.requests - self.first_hit_request) * 1e3

    @property
    def hit_share_after_first(self) -> float:
        """Hits a request from the first hit on."""
        if self.first_hit_request is None:
            return 0.0
        return self.hits / max(1, self.requests - self.first_hit_request)


class Simplified(Partition):
    """A partition as the published tables were measured: it is simpler than in service in these points.

    - No pause after a violation and no bound on pending verifications; both depend on how requests meet in time.
    - In mode `on` a hit counts as checked when it is drawn, not when its label arrives.
    - In mode `auto` a text whose check violated does not enter the index (`Run` sees to it through `is_indexing`).
    - `Run` takes every checked text for stored; in service only one whose check violated is.
    """

    is_indexing = True
    is_gated = False
    drawn = 0

    @property
    def is_paused(self) -> bool:
        """Never."""
        return False

    def admits(self, lookup: Lookup) -> bool:
        """Always."""
        return True

    def verify_probability(self, least: float) -> float:
        """By what was drawn so far."""
        if self.policy.mode is SemanticMode.ON:
            return verify_probability(self.drawn, least)
        return super().verify_probability(least)

    @property
    def lookup_share(self) -> float:
        """All without the cost gate; with it a draw is made for every text, as the tables were measured."""
        return min(super().lookup_share, 1 - 2**-53) if self.is_gated else 1.0

    @property
    def index_share(self) -> float:
        """All without the cost gate."""
        share = super().index_share if self.is_gated else 1.0
        return share if self.is_indexing else 0.0


class InService(Simplified):
    """A partition as it is in service, but for the cost gate, which a run may leave out."""

    @property
    def is_paused(self) -> bool:
        """After a violation, until its label is counted."""
        return Partition.is_paused.fget(self)  # type: ignore[attr-defined,no-any-return]

    def admits(self, lookup: Lookup) -> bool:
        """Within the error budget, pending verifications included."""
        return Partition.admits(self, lookup)

    def verify_probability(self, least: float) -> float:
        """By what was counted so far."""
        return Partition.verify_probability(self, least)


class _Time:
    """Seconds that pass by the costs of what is done."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s


class _Neighbours:
    """The prepared stream's nearest texts as an index; `text` is the one that is looked up."""

    is_usable = True
    kind = "prepared"
    documents = 0

    def __init__(self, stream: Prepared, digests: list[bytes], time: _Time, costs: Costs) -> None:
        self._stream, self._digests, self._time, self._costs = stream, digests, time, costs
        self._places = {digest: place for place, digest in enumerate(digests)}
        self._is_indexed = np.zeros(len(digests), dtype=bool)
        self.text = 0

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        self._time.now_s += self._costs.lookup_s
        near = self._stream.near[self.text]
        near = near[near >= 0]
        near = near[self._is_indexed[near]][:k]
        stream = self._stream
        return [[Neighbour(self._digests[one], stream.static_vectors[one], stream.projected[one]) for one in near]]

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        for _, one in entries:
            self._time.now_s += self._costs.index_s
            self._is_indexed[self._places[one.digest]] = True
            self.documents += 1

    async def remove(self, digest: bytes) -> None:
        self._is_indexed[self._places[digest]] = False

    async def run_checks(self) -> None:
        pass


class _Vectors:
    """The prepared stream's true vectors as the exact tier."""

    def __init__(self, stream: Prepared, digests: list[bytes]) -> None:
        self._bytes = {digest: stream.vectors[place].tobytes() for place, digest in enumerate(digests)}

    async def get_many(self, digests: Sequence[bytes], dimensions: int) -> list[bytes | None]:
        return [self._bytes[digest] for digest in digests]

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        pass


class _Projected:
    """The stream's static embedding, with projected vectors looked up: they are the prepared ones to the bit."""

    def __init__(self, stream: Prepared) -> None:
        self._embedding = stream.embedding
        self._projected = {vector.tobytes(): one for vector, one in zip(stream.vectors, stream.projected, strict=True)}
        self.meta, self.dimensions = stream.embedding.meta, stream.embedding.dimensions
        self.engine_dimensions = stream.embedding.engine_dimensions

    def vector(self, input_ids: Int32Array) -> Float32Array:
        return self._embedding.vector(input_ids)

    def project(self, vectors: Float32Array) -> Float32Array:
        known = (self._projected.get(one.tobytes()) for one in vectors)  # planted violations are not
        made = self._embedding.project(vectors)
        return np.stack([new if one is None else one for one, new in zip(known, made, strict=True)])


class BatchedSums(AlignmentSums):
    """The alignment's sums, which texts enter some at a time, as in service they do by the queue of observations."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self._waiting: list[tuple[Float32Array, Float32Array]] = []

    def add(self, static_vectors: Float32Array, projected: Float32Array) -> None:
        self._waiting.append((static_vectors, projected))
        if len(self._waiting) >= FITTED_AT_ONCE:
            super().add(*(np.concatenate(rows) for rows in zip(*self._waiting, strict=True)))
            self._waiting.clear()


class Run:
    """One stream through one tier. `drift_after_hits`: from then on every served vector counts as a violation."""

    def __init__(
        self,
        stream: Prepared,
        policy: Policy,
        costs: Costs,
        seed: int,
        is_gated: bool = False,
        neighbours: int = 16,
        drift_after_hits: int | None = None,
        kind: type[Simplified] = Simplified,
    ) -> None:
        self.stream, self.policy, self.costs = stream, policy, costs
        self.outcome = Outcome()
        self.drift_after_hits, self.violations_since_drift = drift_after_hits, 0
        self._is_simplified = kind is Simplified
        draw = np.random.default_rng(seed)
        self._digests = _digests(draw.random(len(stream.ids)) if policy.mode is SemanticMode.AUTO else None, stream)
        self._time = _Time()
        self._index = _Neighbours(stream, self._digests, self._time, costs)
        self._tier = SemanticTier(
            self._index,
            _Vectors(stream, self._digests),
            InMemoryExchange(),
            _Projected(stream),  # type: ignore[arg-type]
            "simulated",
            SemanticSettings(0, 0, neighbours, cost_gate=CostGateSettings(first_lookups=0)),
            lambda _: policy,
            self._time.clock,
            draw.random,
            kind,
        )
        self._scope = Scope(b"s" * 32, "simulated", stream.name, ("1-a", "1-b"))
        partition = self._tier._partitions.of(self._scope)
        assert isinstance(partition, Simplified)
        self.partition = partition
        self.partition.is_gated = is_gated
        self.partition.gateways, self.partition.is_writer = 1, True
        self.partition.sums = BatchedSums(stream.embedding.dimensions)
        self._is_stored = np.zeros(len(stream.ids), dtype=bool)
        self._late: deque[Event] = deque()  # labels arrive a few requests later, as they do in service

    def run(self) -> Outcome:
        """All requests in order."""
        asyncio.run(self._run())
        self.outcome.openings = self.partition.certifier.openings
        self.outcome.tau = self.partition.serving_from
        return self.outcome

    async def _run(self) -> None:
        for text in self.stream.order:
            if not self._is_stored[text]:
                await self._request(int(text))
            self._exchange()

    async def _request(self, text: int) -> None:
        out, self._index.text = self.outcome, text
        out.requests += 1
        asked = Text(self._digests[text], self.stream.ids[text].tobytes(), 1)
        (lookup,) = await self._tier.look_up(self._scope, [asked])
        if lookup is not None:
            out.lookups += 1
            out.saved_s -= self.costs.lookup_s
        if lookup is not None and lookup.vector is not None:
            vector = self._hit(text, lookup)
            if not lookup.is_checked:
                return
            engine_s = None
        else:
            vector, engine_s = self.stream.vectors[text].tobytes(), self.costs.engine_s
            self._is_stored[text] = True
        before = self._index.documents
        self._tier.observe(self._scope, [Observation(asked, vector, lookup)], engine_s)
        await self._tier._observations.process_all()
        self.partition.is_indexing = True
        out.saved_s -= self.costs.index_s * (self._index.documents - before)

    def _hit(self, text: int, lookup: Lookup) -> bytes:
        """Count a hit; returns the vector that a check of it would compute."""
        out = self.outcome
        assert lookup.vector is not None
        vector = self.stream.vectors[text]
        similarity = float(vector @ np.frombuffer(lookup.vector, dtype=np.float32))
        if self.drift_after_hits is not None and out.hits >= self.drift_after_hits:
            vector = _far_from(np.frombuffer(lookup.vector, dtype=np.float32))
            similarity = 0.0
        is_violation = similarity < self.policy.fidelity
        if out.first_hit_request is None:
            out.first_hit_request, out.first_hit_labels = out.requests, out.labels
            out.saved_before_s = out.saved_s
        out.hits += 1
        out.similarities.append(similarity)
        out.violations += is_violation
        self.violations_since_drift += self.drift_after_hits is not None and out.hits > self.drift_after_hits
        out.saved_s += self.costs.engine_s
        if lookup.is_checked:
            out.checks += 1
            out.saved_s -= self.costs.engine_s
            self.partition.drawn += 1
            self._is_stored[text] = self._is_simplified or is_violation
            self.partition.is_indexing = not self._is_simplified or self.policy.mode is SemanticMode.ON
        return bytes(vector.tobytes())

    def _exchange(self) -> None:
        """Counts are applied at once, labels late."""
        partition, out = self.partition, self.outcome
        for event in partition.outbox.waiting:
            if event["k"] == "label":
                self._late.append(event)
            elif event["k"] == "hits":
                partition.apply(event)
        partition.outbox.sent(len(partition.outbox.waiting), f"{out.requests}-0")
        if len(self._late) > LABEL_LAG:
            self._apply(self._late.popleft())
        partition.fit_alignment()
        if not any(event["h"] and event["s"] < self.policy.fidelity for event in self._late):
            partition.outbox.await_nothing()

    def _apply(self, event: Event) -> None:
        self.outcome.labels += 1
        openings = self.partition.certifier.openings
        self.partition.apply(event)
        if self.partition.certifier.openings > openings:
            is_drifting = self.drift_after_hits is not None
            seen = self.violations_since_drift if is_drifting else self.outcome.violations
            self.outcome.violations_at_openings.append(seen)


def _digests(shares: npt.NDArray[np.float64] | None, stream: Prepared) -> list[bytes]:
    """A name for each text, the last bytes of which decide which share of texts is indexed."""
    scope = Scope(b"s" * 32, "simulated", stream.name, ("1-a", "1-b"))
    names = [scope.digest_of_ids(place.to_bytes(8, "big"))[:12] for place in range(len(stream.ids))]
    drawn = np.zeros(len(names)) if shares is None else shares
    return [name + int(share * 2**32).to_bytes(4, "big") for name, share in zip(names, drawn, strict=True)]


def _far_from(vector: Float32Array) -> Float32Array:
    """A unit vector at a right angle to another one."""
    other = np.zeros_like(vector)
    other[int(np.argmin(np.abs(vector)))] = 1
    other -= (other @ vector) * vector
    return np.asarray(other / np.linalg.norm(other), dtype=np.float32)


def hindsight(z: Float32Array, good: npt.NDArray[np.bool_], alpha: float) -> float:
    """The largest share of requests that one threshold on z would serve with at most alpha violations."""
    by_z = np.argsort(-z, kind="stable")
    violations = np.cumsum(~good[by_z])
    allowed = np.flatnonzero(violations <= alpha * np.arange(1, len(z) + 1))
    return float(allowed[-1] + 1) / len(z) if len(allowed) else 0.0
