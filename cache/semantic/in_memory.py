"""Index, vector store and exchange of one process, without Redis: for simulations and tests of the tier."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from cache.semantic.events import Event
from cache.semantic.exchange import Saved
from cache.semantic.index import Float32Array, Neighbour

FIRST_ROWS: Final = 256  # of an index; it doubles when they are full


class _Rows:
    """Neighbours of one tag, and their static vectors as the rows of a matrix that has room for more."""

    def __init__(self, dimensions: int) -> None:
        self.neighbours: list[Neighbour] = []
        self._matrix = np.empty((FIRST_ROWS, dimensions), dtype=np.float32)
        self._places: dict[bytes, int] = {}

    def put(self, one: Neighbour) -> None:
        place = self._places.setdefault(one.digest, len(self.neighbours))
        if place < len(self.neighbours):
            self.neighbours[place] = one
        else:
            self.neighbours.append(one)
            if place == len(self._matrix):
                self._matrix = np.concatenate((self._matrix, np.empty_like(self._matrix)))
        self._matrix[place] = one.static_vector

    def remove(self, digest: bytes) -> None:
        """The last row takes the place of the one that goes."""
        place = self._places.pop(digest, None)
        if place is None:
            return
        last = self.neighbours.pop()
        if last.digest != digest:
            self.neighbours[place], self._places[last.digest] = last, place
            self._matrix[place] = last.static_vector

    def nearest(self, static_vector: Float32Array, k: int) -> list[Neighbour]:
        near = self._matrix[: len(self.neighbours)] @ static_vector
        best = np.argpartition(-near, k - 1)[:k] if len(near) > k else np.arange(len(near))
        return [self.neighbours[place] for place in best[np.argsort(-near[best], kind="stable")]]


class InMemoryIndex:
    """Exact nearest neighbours of each tag, found by comparing with all of them. Nothing expires."""

    is_usable = True
    kind = "memory"
    failures = 0

    def __init__(self) -> None:
        self._held: dict[str, _Rows] = {}

    @property
    def documents(self) -> int:
        """Entries of all tags."""
        return sum(len(held.neighbours) for held in self._held.values())

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        """Up to k neighbours of each row, nearest first."""
        held = self._held.get(tag)
        return [[] if held is None else held.nearest(one, k) for one in static_vectors]

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        """Put (tag, neighbour) pairs into the index."""
        for tag, one in entries:
            if tag not in self._held:
                self._held[tag] = _Rows(len(one.static_vector))
            self._held[tag].put(one)

    async def remove(self, digest: bytes) -> None:
        """Take a neighbour out."""
        for held in self._held.values():
            held.remove(digest)

    async def run_checks(self) -> None:
        """Nothing to check."""


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
        self.saved[tag] = replace(saved, state=json.loads(json.dumps(saved.state)))
        if alignment:
            self.alignments[tag] = alignment
        return True

    async def forget(self, tag: str) -> None:
        """Drop everything kept of a partition."""
        for kept in (self.events, self.saved, self.alignments):
            kept.pop(tag, None)
