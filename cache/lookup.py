"""What one look-up by meaning found, handed from the decision to the reply, the check and the label. Values only."""

from dataclasses import dataclass

from cache.probe import Float32Array
from cache.promise import Promise
from cache.threshold import Choice


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
