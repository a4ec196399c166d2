"""What goes in and out of the semantic tier's two calls: a text, what its look-up found, what was computed for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cache.metrics import REFUSED
from cache.semantic.policy import Policy
from cache.semantic.predictor import Choice
from cache.semantic.static_embedding import Float32Array, Int32Array, StaticEmbedding

# Cosine of a stored vector's projection with the one in the index, float16, where both are of one text: another CPU
# kind's vector of it has 0.999 (ARCHITECTURE.md, "Invariants").
LEAST_BELONGING: Final = 0.99


@dataclass(frozen=True, slots=True)
class Text:
    """One text: the digest of its exact entry, its token ids (little-endian int32 bytes), its length in characters."""

    digest: bytes
    input_ids: bytes
    chars: int

    @property
    def ids(self) -> Int32Array:
        """int32[n]."""
        return np.frombuffer(self.input_ids, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """What one look-up found: the best neighbour, the tau it met, and the neighbour's vector when it is served.

    `policy`: what was in force when it was decided; its label counts under that one.
    """

    static_vector: Float32Array
    policy: Policy
    neighbour: bytes | None = None
    choice: Choice | None = None
    tau: float | None = None
    version: int = 0
    probability: float = 1.0  # with which a hit of this moment is checked
    vector: bytes | None = None  # float32 bytes, when served
    is_checked: bool = False
    ticket: int = 0  # of this look-up, in this process
    projected: Float32Array | None = None  # the neighbour's vector in the static embedding's space, as the index has it

    @property
    def clears(self) -> bool:
        """Whether the best neighbour may be served, if its vector is still there."""
        return self.choice is not None and self.tau is not None and self.choice.z >= self.tau


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The engine's vector of a text (float32 bytes), and the look-up that was made for it, if one was.

    Where the look-up was a hit, the vector was recomputed to verify it.
    """

    text: Text
    vector: bytes
    lookup: Lookup | None = None

    @property
    def is_verification(self) -> bool:
        """Whether a neighbour's vector had been served for this text."""
        return self.lookup is not None and self.lookup.vector is not None


def belonging(
    embedding: StaticEmbedding, lookups: Sequence[Lookup], vectors: Sequence[bytes | None]
) -> list[bytes | None]:
    """The vectors (float32 bytes) that are those of the neighbours by whose projection was decided; None for others."""
    there = [place for place, vector in enumerate(vectors) if vector is not None]
    found = list(vectors)
    if not there:
        return found
    stored = np.frombuffer(b"".join(filter(None, vectors)), dtype="<f4").reshape(len(there), -1)
    decided_by = np.stack([one.projected for one in lookups if one.projected is not None])[there]
    similarities = np.einsum("ij,ij->i", embedding.project(stored), decided_by)
    for place, similarity in zip(there, similarities, strict=True):
        if not similarity >= LEAST_BELONGING:  # also where it is no number
            REFUSED.labels("document", "mismatch").inc()
            found[place] = None
    return found
