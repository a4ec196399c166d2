"""What goes in and out of the semantic tier's two calls: a text, what its look-up found, what was computed for it."""

from dataclasses import dataclass

import numpy as np

from cache.semantic.policy import Policy
from cache.semantic.predictor import Choice
from cache.semantic.static_embedding import Float32Array, Int32Array


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
