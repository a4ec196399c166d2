"""What is asked of reuse in one namespace: its mode, its fidelity, its bounds. Values only; no I/O, no state."""

import enum
from dataclasses import dataclass, field

from cache.reuse import ReuseSettings
from cache.threshold import ThresholdSettings


class SemanticMode(enum.Enum):
    """OBSERVE: learn, serve nothing; AUTO: serve once certified and worth it; ON: serve by the moving threshold."""

    OFF = "off"
    OBSERVE = "observe"
    AUTO = "auto"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Promise:
    """The values in force for one namespace; `reuse` and `threshold` hold the same fidelity and alpha."""

    mode: SemanticMode
    reuse: ReuseSettings = field(default_factory=ReuseSettings)
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)

    @property
    def fidelity(self) -> float:
        """Least cosine similarity of a served vector to the true one."""
        return self.reuse.fidelity

    @property
    def is_cautious(self) -> bool:
        """Whether z has the doubled margin of `on` mode, see `cache.threshold.Predictor.cautious`."""
        return self.mode is SemanticMode.ON

    def score(self, probe_id: str) -> str:
        """Names what z means: labels of another probe or margin say nothing of it."""
        return f"{probe_id}{'+' if self.is_cautious else ''}"

    def identity(self, probe_id: str) -> str:
        """Names what a certificate was earned for: with another z, fidelity, alpha or beta it says nothing."""
        return f"{self.score(probe_id)}:{self.reuse.fidelity}:{self.reuse.alpha}:{self.reuse.beta}"
