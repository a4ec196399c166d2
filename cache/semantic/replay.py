"""Replays recorded texts through the semantic tier, without Redis, the engine's true vectors at hand.

    outcome = Replay(recording, embedding, policy, Costs(token_s=0.0001), SemanticSettings(10, 3600)).run()
    outcome.hits, outcome.violations, outcome.saved_s

The tier decides and learns as in service. What stands around it is simpler: one gateway, one text at a time, index and
vectors in memory, entries that never expire, time that passes by fixed costs, labels that are counted a few requests
late. A text that was computed is not asked again when it comes again: the exact tier would serve it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cache.keys import Scope
from cache.semantic.calibration import reading
from cache.semantic.certificate import upper_bound
from cache.semantic.events import Event
from cache.semantic.in_memory import InMemoryExchange, InMemoryIndex, InMemoryVectors
from cache.semantic.index import Index, Neighbour
from cache.semantic.lookup import Lookup, Observation, Text
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy
from cache.semantic.static_embedding import Float32Array, Int32Array, StaticEmbedding
from cache.semantic.tier import SemanticSettings, SemanticTier

__all__ = ["Costs", "Outcome", "Partition", "Recording", "Replay", "StaticEmbedding", "Ungated"]

LABEL_LAG: Final = 4  # labels that are under way at any time
SCOPE: Final = Scope(b"s" * 32, "simulated", "simulated", ("1-a", "1-b"))
EMBEDDING_ID: Final = "simulated"


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds: the engine's time a text and, on top, a token; a look-up (static vector, decision, one KNN), an index
    write. The last two are as measured with RediSearch."""

    engine_s: float = 0.0
    token_s: float = 0.0
    lookup_s: float = 0.00055
    index_s: float = 0.0001

    def computing_s(self, tokens: int) -> float:
        """The engine's time for a text."""
        return self.engine_s + self.token_s * tokens


@dataclass(frozen=True, slots=True)
class Recording:
    """`order[i]` is the distinct text that request i asks for; texts are numbered as they come.

    ids: int32[tokens] a text; chars: its length; vectors: the engine's, float32[n, dimensions], unit length.
    """

    order: npt.NDArray[np.int64]
    ids: Sequence[Int32Array]
    chars: Sequence[int]
    vectors: Float32Array


@dataclass(slots=True)
class Outcome:
    """What one replay did. All but `total` counts only the requests that the exact tier did not answer.

    `saved_s`: the engine's time for hits, less that for checks, look-ups and index writes. `similarities`: the true
    one of each hit. `first_hit_at`: its place among all requests, from 1. `tau`: at the end.
    """

    total: int = 0
    requests: int = 0
    lookups: int = 0
    hits: int = 0
    violations: int = 0
    checks: int = 0
    labels: int = 0
    openings: int = 0
    indexed: int = 0
    saved_s: float = 0.0
    saved_before_s: float = 0.0  # the first hit
    first_hit_at: int | None = None
    first_hit_labels: int | None = None
    first_hit_request: int | None = None
    similarities: list[float] = field(default_factory=list)
    tau: float | None = None

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

    @property
    def violations_bound(self) -> float | None:
        """Upper 95 % bound of the share of hits that violate, as if they were independent; None without a hit."""
        return upper_bound(self.violations, self.hits, 0.05) if self.hits else None

    @property
    def mean_similarity(self) -> float | None:
        """True similarity of the hits on the mean."""
        return sum(self.similarities) / self.hits if self.hits else None

    def saved_at_price_s(self, price_s: float, costs: Costs) -> float:
        """`saved_s` where computing a text costs `price_s`."""
        return (self.hits - self.checks) * price_s - self.lookups * costs.lookup_s - self.indexed * costs.index_s


class Ungated(Partition):
    """A partition without the cost gate: every text is looked up, every computed one enters the index."""

    @property
    def lookup_share(self) -> float:
        """All."""
        return 1.0

    @property
    def index_share(self) -> float:
        """All."""
        return 1.0


class Replay:
    """One recording through one tier. `partition`: how the namespace decides; `draw`: for all that is left to chance.

    `index`, `digests`: another index than the one in memory, and the texts' names in it.
    """

    def __init__(
        self,
        recording: Recording,
        embedding: StaticEmbedding,
        policy: Policy,
        costs: Costs,
        settings: SemanticSettings,
        partition: type[Partition] = Partition,
        draw: np.random.Generator | None = None,
        index: Index | None = None,
        digests: Sequence[bytes] | None = None,
    ) -> None:
        self.recording, self.policy, self.costs = recording, policy, costs
        self.outcome = Outcome()
        self._digests = digests or [SCOPE.digest_of_ids(ids.tobytes()) for ids in recording.ids]
        self._index = _TimedIndex(index or InMemoryIndex(), costs)
        self._vectors = InMemoryVectors()
        namespace = partition(SCOPE, policy, settings.cost_gate_priced, EMBEDDING_ID, embedding.dimensions)
        namespace.gateways, namespace.is_writer = 1, True
        self.partition = namespace
        self._tier = SemanticTier(
            self._index,
            self._vectors,
            InMemoryExchange(),
            embedding,
            EMBEDDING_ID,
            settings,
            lambda _: policy,
            self._index.clock,
            (draw or np.random.default_rng(0)).random,
            lambda *_: namespace,  # not self, so that nothing waits for the garbage collector
        )
        self._is_stored = np.zeros(len(recording.ids), dtype=bool)
        self._late: deque[Event] = deque()

    def run(self, each: Callable[[Sequence[int]], Iterable[int]] = iter) -> Outcome:
        """All requests in order; `each` may wrap them, to show progress."""
        asyncio.run(self._run(each))
        self.outcome.openings = self.partition.certifier.openings
        self.outcome.tau = self.partition.serving_from
        return self.outcome

    def curve(self, fidelities: tuple[float, ...]) -> list[dict[str, Any]]:
        """From the labels: for each tau the share that would be reused, and of that the share below each fidelity."""
        return self.partition.table.curve(fidelities)

    def reading(self) -> str:
        """One line for people: how far the labels would let one go at the policy's fidelity and alpha."""
        return reading(self.partition.table, self.partition.serving_from, self.policy.fidelity, self.policy.alpha)

    async def _run(self, each: Callable[[Sequence[int]], Iterable[int]]) -> None:
        for text in each(self.recording.order.tolist()):
            self.outcome.total += 1
            if not self._is_stored[text]:
                await self._request(text)
            self._exchange()

    async def _request(self, text: int) -> None:
        out, ids = self.outcome, self.recording.ids[text]
        out.requests += 1
        asked = Text(self._digests[text], ids.tobytes(), self.recording.chars[text])
        computing_s = self.costs.computing_s(len(ids))
        (lookup,) = await self._tier.look_up(SCOPE, [asked])
        if lookup is not None:
            out.lookups += 1
            out.saved_s -= self.costs.lookup_s
        engine_s: float | None = None
        if lookup is not None and lookup.vector is not None:
            vector = self._hit(text, lookup, lookup.vector, computing_s)
            if not lookup.is_checked:
                return
        else:
            vector, engine_s = self.recording.vectors[text].tobytes(), computing_s
            self._is_stored[text] = True
            self._vectors.put_many([(asked.digest, vector)])
        before = self._index.writes
        self._tier.observe(SCOPE, [Observation(asked, vector, lookup)], engine_s)
        await self._tier.process_observed()
        out.indexed += self._index.writes - before
        out.saved_s -= self.costs.index_s * (self._index.writes - before)

    def _hit(self, text: int, lookup: Lookup, served: bytes, computing_s: float) -> bytes:
        """Count a hit; returns the vector that a check of it would compute."""
        out = self.outcome
        neighbour = np.frombuffer(served, dtype=np.float32)
        vector = self._true_vector(text, neighbour)
        similarity = float(vector @ neighbour)
        is_violation = similarity < self.policy.fidelity
        if out.first_hit_at is None:
            out.first_hit_at, out.first_hit_request, out.first_hit_labels = out.total, out.requests, out.labels
            out.saved_before_s = out.saved_s
        out.hits += 1
        out.similarities.append(similarity)
        out.violations += is_violation
        out.saved_s += computing_s
        if lookup.is_checked:
            out.checks += 1
            out.saved_s -= computing_s
            self._check(text, is_violation)
        return bytes(vector.tobytes())

    def _true_vector(self, text: int, served: Float32Array) -> Float32Array:
        """What the engine computes for a text that was served another vector."""
        vector: Float32Array = self.recording.vectors[text]
        return vector

    def _check(self, text: int, is_violation: bool) -> None:
        """A hit is verified: the recomputed vector is stored where it violated."""
        self._is_stored[text] = is_violation

    def _exchange(self) -> None:
        """Counts are applied at once, labels late; a violation pauses the namespace until it is counted."""
        partition, outbox = self.partition, self.partition.outbox
        for event in outbox.waiting:
            if event["k"] == "label":
                self._late.append(event)
            else:
                partition.apply(event)
        outbox.sent(len(outbox.waiting), f"{self.outcome.requests}-0")
        if len(self._late) > LABEL_LAG:
            self._apply(self._late.popleft())
        partition.fit_alignment()
        if not any(event["h"] and event["s"] < self.policy.fidelity for event in self._late):
            outbox.await_nothing()

    def _apply(self, event: Event) -> None:
        self.outcome.labels += 1
        self.partition.apply(event)


class _TimedIndex:
    """An index, and the seconds that pass by the costs of what is done with it."""

    is_usable = True
    kind = "timed"
    failures = 0

    def __init__(self, index: Index, costs: Costs) -> None:
        self._index, self._costs = index, costs
        self._now_s = 0.0
        self.writes = 0

    @property
    def documents(self) -> int:
        return self._index.documents

    def clock(self) -> float:
        return self._now_s

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        self._now_s += self._costs.lookup_s * len(static_vectors)
        return await self._index.nearest(tag, static_vectors, k)

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        self._now_s += self._costs.index_s * len(entries)
        self.writes += len(entries)
        await self._index.add(entries, ttl_s)

    async def remove(self, digest: bytes) -> None:
        await self._index.remove(digest)

    async def run_checks(self) -> None:
        pass
