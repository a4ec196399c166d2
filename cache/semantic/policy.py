"""What is asked of semantic hits in one namespace: mode, fidelity, error rate, threshold bounds.

The gateway resolves a namespace's policy from settings and live values; a look-up is decided under the one in force.
"""

import enum
from dataclasses import dataclass, field

from cache.semantic.certifier import CertifierSettings
from cache.semantic.error_budget import ErrorBudgetSettings
from cache.semantic.threshold import ThresholdSettings


class SemanticMode(enum.Enum):
    """OBSERVE: learn, serve nothing; AUTO: serve once certified and worth it; ON: serve by the moving threshold."""

    OFF = "off"
    OBSERVE = "observe"
    AUTO = "auto"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Policy:
    """The values in force for one namespace; `certifier` and `threshold` hold the same fidelity and alpha."""

    mode: SemanticMode
    certifier: CertifierSettings = field(default_factory=CertifierSettings)
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)

    @classmethod
    def of(
        cls, mode: str, fidelity: float, alpha: float, beta: float, threshold: float, floor: float, ceiling: float
    ) -> "Policy":
        """A policy from an operator's values. Raises ValueError when the threshold's bounds contradict each other."""
        return cls(
            SemanticMode(mode),
            CertifierSettings(fidelity, alpha, beta, budget=ErrorBudgetSettings(alpha)),
            ThresholdSettings(threshold, floor, ceiling, fidelity, alpha),
        )

    @property
    def fidelity(self) -> float:
        """Least cosine similarity of a served vector to the one the engine would compute."""
        return self.certifier.fidelity

    @property
    def alpha(self) -> float:
        """Largest share of violations among semantic hits."""
        return self.certifier.alpha

    @property
    def is_cautious(self) -> bool:
        """Whether z has the doubled margin of mode `on`, see `cache.semantic.predictor.Predictor.cautious`."""
        return self.mode is SemanticMode.ON

    def score(self, embedding_id: str) -> str:
        """Names what z means: labels of another static embedding or margin do not apply to it."""
        return f"{embedding_id}{'+' if self.is_cautious else ''}"

    def identity(self, embedding_id: str) -> str:
        """Names what a certificate was earned for: it does not hold for another z, fidelity, alpha or beta."""
        return f"{self.score(embedding_id)}:{self.certifier.fidelity}:{self.certifier.alpha}:{self.certifier.beta}"
