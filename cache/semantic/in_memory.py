"""Index, vector store and exchange of one process, without Redis: for simulations and tests of the tier."""

import json
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cache.semantic.events import Event
from cache.semantic.exchange import Saved
from cache.semantic.index import Float32Array, Neighbour


class InMemoryIndex:
    """Exact nearest neighbours of each tag, found by comparing with all of them. Nothing expires."""

    is_usable = True
    kind = "memory"

    def __init__(self) -> None:
        self._held: dict[str, dict[bytes, Neighbour]] = defaultdict(dict)
        self._rows: dict[str, tuple[list[bytes], Float32Array]] = {}  # rebuilt when more room is needed

    @property
    def documents(self) -> int:
        """Entries of all tags."""
        return sum(len(held) for held in self._held.values())

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        """Up to k neighbours of each row, nearest first."""
        held = self._held[tag]
        if not held:
            return [[] for _ in static_vectors]
        digests, rows = self._matrix(tag, held)
        found = []
        for near in static_vectors @ rows.T:
            best = np.argpartition(-near, min(k, len(near)) - 1)[:k] if len(near) > k else np.arange(len(near))
            found.append([held[digests[place]] for place in best[np.argsort(-near[best], kind="stable")]])
        return found

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        """Put (tag, neighbour) pairs into the index."""
        for tag, one in entries:
            self._held[tag][one.digest] = one
            self._rows.pop(tag, None)

    async def remove(self, digest: bytes) -> None:
        """Take a neighbour out."""
        for tag, held in self._held.items():
            if held.pop(digest, None) is not None:
                self._rows.pop(tag, None)

    async def run_checks(self) -> None:
        """Nothing to check."""

    def _matrix(self, tag: str, held: dict[bytes, Neighbour]) -> tuple[list[bytes], Float32Array]:
        if tag not in self._rows:
            self._rows[tag] = list(held), np.stack([one.static_vector for one in held.values()])
        return self._rows[tag]


class InMemoryVectors:
    """Vectors by digest."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    async def get_many(self, digests: Sequence[bytes], dimensions: int) -> list[bytes | None]:
        """float32 bytes for each digest, None where there are none."""
        return [self.held.get(digest) for digest in digests]

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep (digest, float32 bytes) pairs."""
        self.held.update(entries)


class InMemoryExchange:
    """One stream, state and matrix for each tag; whoever asks first for a tag's lease keeps it.

    `caller`: which gateway asks now, where several share an exchange.
    """

    is_available = True

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.saved: dict[str, Saved] = {}
        self.alignments: dict[str, bytes] = {}
        self.gateways = 1
        self.writers: dict[str, object] = {}
        self.caller: object = self

    async def append(self, tag: str, events: Sequence[Event]) -> str:
        """Add events; returns the last one's id."""
        self.events[tag] += [json.loads(json.dumps(event)) for event in events]
        return f"{len(self.events[tag])}-0"

    async def load(self, tag: str) -> Saved | None:
        """The stored state."""
        return self.saved.get(tag)

    async def take_lease(self, tag: str) -> tuple[bool, int]:
        """Whether the caller is the writer, and how many gateways there are."""
        return self.writers.setdefault(tag, self.caller) is self.caller, self.gateways

    async def events_after(self, tag: str, last_event: str) -> list[tuple[str, Event]]:
        """All later events, oldest first."""
        start = int(last_event.split("-", maxsplit=1)[0])
        return [(f"{start + n + 1}-0", event) for n, event in enumerate(self.events[tag][start:])]

    async def load_alignment(self, tag: str) -> bytes:
        """The stored matrix; empty when there is none."""
        return self.alignments.get(tag, b"")

    async def save(self, tag: str, saved: Saved, alignment: bytes = b"") -> bool:
        """Store the state, and with it a new matrix where one is given."""
        self.saved[tag] = Saved(saved.last_event, json.loads(json.dumps(saved.state)))
        if alignment:
            self.alignments[tag] = alignment
        return True

    async def forget(self, tag: str) -> None:
        """Drop everything kept of a partition."""
        for kept in (self.events, self.saved, self.alignments):
            kept.pop(tag, None)
