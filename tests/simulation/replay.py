"""One stream through the product's replay, with exact neighbours found beforehand.

`cache.semantic.replay` is what the tier decides and learns in; here neighbours are read off a prepared stream, so that
many runs over one stream are quick. `Simplified` names where a partition is simpler than in service; `--in-service`
takes it away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.semantic.alignment import AlignmentSums
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.events import Event
from cache.semantic.index import Neighbour
from cache.semantic.lookup import Lookup
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.replay import SCOPE, Costs, Recording, Replay
from cache.semantic.static_embedding import Int32Array, StaticEmbedding
from cache.semantic.threshold import verify_probability
from cache.semantic.tier import SemanticSettings
from tests.simulation.streams import Float32Array, Stream

SPARE = 40  # nearest earlier texts kept a text; those not in the index are skipped
FITTED_AT_ONCE = 32  # computed texts enter the alignment's sums so many at a time


@dataclass(frozen=True, slots=True)
class Prepared(Recording):
    """What does not depend on decisions: distinct texts in order of arrival with their earlier nearest.

    static_vectors, projected: float32[n, d]; near: int[n, SPARE], -1 where there is none.
    """

    name: str
    static_vectors: Float32Array
    projected: Float32Array
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
    return Prepared(
        order,
        ids,
        [1] * len(ids),
        vectors,
        stream.name,
        static_vectors,
        projected,
        near,
        embedding,
        stream.measured_from,
    )


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


class _Neighbours:
    """The prepared stream's nearest texts as an index; `text` is the one that is looked up."""

    is_usable = True
    kind = "prepared"
    documents = 0

    def __init__(self, stream: Prepared, digests: list[bytes]) -> None:
        self._stream, self._digests = stream, digests
        self._places = {digest: place for place, digest in enumerate(digests)}
        self._is_indexed = np.zeros(len(digests), dtype=bool)
        self.text = 0

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        near = self._stream.near[self.text]
        near = near[near >= 0]
        near = near[self._is_indexed[near]][:k]
        stream = self._stream
        return [[Neighbour(self._digests[one], stream.static_vectors[one], stream.projected[one]) for one in near]]

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        for _, one in entries:
            self._is_indexed[self._places[one.digest]] = True

    async def remove(self, digest: bytes) -> None:
        self._is_indexed[self._places[digest]] = False

    async def run_checks(self) -> None:
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


class Run(Replay):
    """One stream through one tier. `drift_after_hits`: from then on every served vector counts as a violation.

    `violations_at_openings`: violations, of the drift where there is one, when the breaker opened.
    """

    partition: Simplified

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
        draw = np.random.default_rng(seed)
        digests = _digests(draw.random(len(stream.ids)) if policy.mode is SemanticMode.AUTO else None, stream)
        self._neighbours = _Neighbours(stream, digests)
        super().__init__(
            stream,
            _Projected(stream),  # type: ignore[arg-type]
            policy,
            costs,
            SemanticSettings(0, 0, neighbours, cost_gate=CostGateSettings(first_lookups=0)),
            kind,
            draw,
            self._neighbours,
            digests,
        )
        self.partition.is_gated = is_gated
        self.partition.sums = BatchedSums(stream.embedding.dimensions)
        self.drift_after_hits, self._violations_since_drift = drift_after_hits, 0
        self.violations_at_openings: list[int] = []
        self._is_simplified = kind is Simplified

    async def _request(self, text: int) -> None:
        self._neighbours.text = text
        await super()._request(text)
        self.partition.is_indexing = True

    def _true_vector(self, text: int, served: Float32Array) -> Float32Array:
        if self.drift_after_hits is None or self.outcome.hits < self.drift_after_hits:
            return super()._true_vector(text, served)
        self._violations_since_drift += 1
        return _far_from(served)

    def _check(self, text: int, is_violation: bool) -> None:
        self.partition.drawn += 1
        self._is_stored[text] = self._is_simplified or is_violation
        self.partition.is_indexing = not self._is_simplified or self.policy.mode is SemanticMode.ON

    def _apply(self, event: Event) -> None:
        openings = self.partition.certifier.openings
        super()._apply(event)
        if self.partition.certifier.openings > openings:
            is_drifting = self.drift_after_hits is not None
            self.violations_at_openings.append(self._violations_since_drift if is_drifting else self.outcome.violations)


def _digests(shares: npt.NDArray[np.float64] | None, stream: Prepared) -> list[bytes]:
    """A name for each text, the last bytes of which decide which share of texts is indexed."""
    names = [SCOPE.digest_of_ids(place.to_bytes(8, "big"))[:12] for place in range(len(stream.ids))]
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
