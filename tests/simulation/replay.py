"""One stream through `auto` mode: the product's decision code, true vectors, exact k-nearest for the index.

Nothing here decides; it draws random numbers, keeps what Redis would keep, and counts.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cache.semantic.alignment import AlignmentSums
from cache.semantic.certifier import Certifier, CertifierSettings, Label
from cache.semantic.cost_gate import CostGate
from cache.semantic.static_embedding import StaticEmbedding
from cache.semantic.threshold import Choice, Predictor, choose
from tests.simulation.streams import Float32Array, Stream

SPARE = 40  # nearest earlier texts kept a text; those not in the index are skipped


LABEL_LAG = 4  # requests between an answer and its label's arrival, as in the product


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds: the engine's time a text, a look-up (probe, decision, one KNN), an index write."""

    engine_s: float
    lookup_s: float = 0.00055
    index_s: float = 0.0001


@dataclass(frozen=True, slots=True)
class Prepared:
    """What does not depend on decisions: distinct texts in order of arrival with their earlier nearest.

    probes, images: float32[n, d]; vectors: float32[n, dimensions]; near: int[n, SPARE], -1 where there is none.
    """

    name: str
    order: npt.NDArray[np.int64]
    probes: Float32Array
    images: Float32Array
    vectors: Float32Array
    near: npt.NDArray[np.int64]
    measured_from: int


def prepare(stream: Stream, probe: StaticEmbedding) -> Prepared:
    """Probes, images and earlier nearest neighbours of a stream."""
    arrival: dict[int, int] = {}
    order = np.array([arrival.setdefault(int(text), len(arrival)) for text in stream.order])
    rows = list(arrival)
    probes = np.stack([probe.vector(stream.ids[row][1:-1]) for row in rows])
    vectors = stream.vectors[rows]
    return Prepared(
        stream.name, order, probes, probe.project(vectors), vectors, earlier_nearest(probes), stream.measured_from
    )


def earlier_nearest(probes: Float32Array, count: int = SPARE) -> npt.NDArray[np.int64]:
    """For each row the `count` most similar earlier rows, nearest first, padded with -1."""
    n = len(probes)
    out = np.full((n, count), -1, dtype=np.int64)
    for start in range(0, n, 1024):
        end = min(n, start + 1024)
        near = probes[start:end] @ probes[:end].T
        near[np.arange(end)[None, :] >= np.arange(start, end)[:, None]] = -2
        kept = min(count, end)
        best = np.argpartition(-near, kept - 1, axis=1)[:, :kept]
        values = np.take_along_axis(near, best, axis=1)
        by_value = np.argsort(-values, axis=1)
        best, values = np.take_along_axis(best, by_value, axis=1), np.take_along_axis(values, by_value, axis=1)
        out[start:end, :kept] = np.where(values > -1.5, best, -1)
    return out


class Learning:
    """The map as a gateway learns it: texts enter its sums some at a time, as the product's learner does."""

    AT_ONCE = 32

    def __init__(self, stream: Prepared) -> None:
        self.alignment: Float32Array | None = None
        self._stream = stream
        self._learner = AlignmentSums(stream.probes.shape[1])
        self._waiting: list[int] = []

    def add(self, text: int) -> None:
        """A text was computed and indexed."""
        self._waiting.append(text)
        if len(self._waiting) >= self.AT_ONCE:
            self._learner.add(self._stream.probes[self._waiting], self._stream.images[self._waiting])
            self._waiting.clear()
            if self._learner.is_due:
                self.alignment = self._learner.fit()[0].matrix


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
    gate_reason: str = ""

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
    def reuse_after_first_hit(self) -> float:
        """Hits a request from the first hit on."""
        if self.first_hit_request is None:
            return 0.0
        return self.hits / max(1, self.requests - self.first_hit_request)


class AutoRun:
    """State of one run. `drift_after_hits`: from then on every served vector is taken for a violation."""

    def __init__(
        self,
        stream: Prepared,
        predictor: Predictor,
        settings: CertifierSettings,
        costs: Costs,
        seed: int,
        cost_gate: CostGate | None = None,
        neighbours: int = 8,
        drift_after_hits: int | None = None,
    ) -> None:
        self.stream, self.predictor, self.settings, self.costs = stream, predictor, settings, costs
        self.reuse, self.cost_gate = Certifier(settings), cost_gate
        self.outcome = Outcome()
        self.neighbours, self.drift_after_hits = neighbours, drift_after_hits
        self.violations_since_drift = 0
        self._draw = np.random.default_rng(seed)
        self._stored = np.zeros(len(stream.probes), dtype=bool)
        self._indexed = np.zeros(len(stream.probes), dtype=bool)
        self._index_draw = self._draw.random(len(stream.probes))
        self._learning = Learning(stream)
        self._late: deque[Label] = deque()  # labels arrive a few requests later, as they do in the product

    def run(self) -> Outcome:
        """All requests in order."""
        for text in self.stream.order:
            if not self._stored[text]:
                self._request(int(text))
            if len(self._late) > LABEL_LAG:
                self._learn(self._late.popleft())
        self.outcome.openings = self.reuse.openings
        self.outcome.gate_reason = self.cost_gate.reason if self.cost_gate else ""
        return self.outcome

    def _request(self, text: int) -> None:
        out = self.outcome
        out.requests += 1
        tau, checked = self.reuse.tau, self.reuse.verify_probability
        choice, neighbour = None, -1
        if self.cost_gate is None or self._draw.random() < self.cost_gate.lookup_share:
            choice, neighbour = self._look_up(text)
            out.lookups += 1
            out.saved_s -= self.costs.lookup_s
            would_hit = choice is not None and tau is not None and choice.z >= tau
            if self.cost_gate:
                is_near = choice is not None and choice.z >= self.settings.levels()[-1]
                self.cost_gate.record_lookup(self.costs.lookup_s, would_hit, checked, tau is not None, is_near)
            if would_hit and choice is not None:
                self._hit(text, neighbour, choice, checked)
                return
        self._compute(text)
        if choice is not None:
            similarity = float(self.stream.vectors[text] @ self.stream.vectors[neighbour])
            self._late.append(Label(_pair(text, neighbour), choice.z, similarity, self.reuse.version, False, checked))

    def _look_up(self, text: int) -> tuple[Choice | None, int]:
        near = self.stream.near[text]
        near = near[near >= 0]
        near = near[self._indexed[near]][: self.neighbours]
        stream, alignment = self.stream, self._learning.alignment
        choice = choose(self.predictor, stream.probes[text], stream.probes[near], stream.images[near], alignment)
        return choice, int(near[choice.index]) if choice else -1

    def _compute(self, text: int) -> None:
        self._stored[text] = True
        if self.cost_gate:
            self.cost_gate.record_engine(self.costs.engine_s)
            if self._index_draw[text] >= self.cost_gate.index_share:
                return
            self.cost_gate.record_index_write(self.costs.index_s)
        self._indexed[text] = True
        self.outcome.saved_s -= self.costs.index_s
        self._learning.add(text)

    def _hit(self, text: int, neighbour: int, choice: Choice, probability: float) -> None:
        out = self.outcome
        self.reuse.add_hit()
        similarity = float(self.stream.vectors[text] @ self.stream.vectors[neighbour])
        if self.drift_after_hits is not None and out.hits >= self.drift_after_hits:
            similarity = 0.0
        is_violation = similarity < self.settings.fidelity
        if out.first_hit_request is None:
            out.first_hit_request, out.first_hit_labels = out.requests, out.labels
            out.saved_before_s = out.saved_s
        out.hits += 1
        out.violations += is_violation
        self.violations_since_drift += self.drift_after_hits is not None and out.hits > self.drift_after_hits
        out.saved_s += self.costs.engine_s
        if self._draw.random() < probability:
            out.checks += 1
            out.saved_s -= self.costs.engine_s
            self._stored[text] = True
            if is_violation:
                self._indexed[neighbour] = False
            label = Label(_pair(text, neighbour), choice.z, similarity, self.reuse.version, True, probability)
            self._late.append(label)

    def _learn(self, label: Label) -> None:
        self.outcome.labels += 1
        openings = self.reuse.openings
        self.reuse.add_label(label)
        if self.reuse.openings > openings:
            drifting = self.drift_after_hits is not None
            seen = self.violations_since_drift if drifting else self.outcome.violations
            self.outcome.violations_at_openings.append(seen)


def _pair(text: int, neighbour: int) -> int:
    return text << 32 | neighbour


def hindsight(z: Float32Array, good: npt.NDArray[np.bool_], alpha: float) -> float:
    """The largest share of requests that one threshold on z would serve with at most alpha violations."""
    by_z = np.argsort(-z, kind="stable")
    violations = np.cumsum(~good[by_z])
    allowed = np.flatnonzero(violations <= alpha * np.arange(1, len(z) + 1))
    return float(allowed[-1] + 1) / len(z) if len(allowed) else 0.0
