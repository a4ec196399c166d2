"""Mode `auto`: when a namespace may serve semantic hits, from which z on, and when its breaker opens.

    testing ──a level is proven──▶ serving ──the error budget is spent──▶ testing, from nothing, with less confidence
       └──too many labels without a proof──▶ testing, from nothing, likewise

z is an uncalibrated score of a fixed predictor and the levels stand at fixed distances from the fidelity, so no label
is used to choose what it tests. A version is one round of this; each round may use up three quarters of what is left
of beta. Looser levels go on being tested while stricter ones serve. Labels come from all gateways; one of them at a
time applies them.
"""

from dataclasses import dataclass, field
from typing import Any

from cache.semantic.certificate import Certificate
from cache.semantic.error_budget import ErrorBudget, ErrorBudgetSettings

STATE_VERSION = 1
ROUND_SHARE = 0.25  # of the confidence left, what a round leaves to the later ones
HIGHEST_LEVEL = 0.995


@dataclass(frozen=True, slots=True)
class Label:
    """The true similarity of one would-be-served or served candidate.

    `pair`: a keyed hash of text and neighbour; `z` as decided; `version`: the round it was decided in; `was_hit`:
    it was served; `probability`: with which a hit of that moment was checked, whether or not this one is a hit (1
    while nothing is served). A miss is always labelled, so its weight is that probability; a checked hit's is 1.
    """

    pair: int
    z: float
    similarity: float
    version: int
    was_hit: bool = False
    probability: float = 1.0

    @property
    def weight(self) -> float:
        """What makes misses and checked hits comparable; see `cache.semantic.certificate`."""
        return 1.0 if self.was_hit else self.probability


@dataclass(frozen=True, slots=True)
class CertifierSettings:
    """`fidelity`: what a served vector must reach. `steps`: where levels stand above it, strict to loose.

    `patience`: labels at the loosest level after which a round without a proof ends; doubles from round to round.
    `comeback`: labels that a proven level needs after the breaker's first opening; doubles with each further one.
    """

    fidelity: float = 0.92
    alpha: float = 0.05
    beta: float = 0.05
    steps: tuple[float, ...] = (0.06, 0.05, 0.04, 0.03, 0.02)
    patience: int = 3000
    comeback: int = 300
    remembered_pairs: int = 2048
    budget: ErrorBudgetSettings = field(default_factory=ErrorBudgetSettings)

    def levels(self) -> list[float]:
        """The levels of z that are tested, strict to loose."""
        found = sorted({min(HIGHEST_LEVEL, round(self.fidelity + step, 6)) for step in self.steps})
        return found[::-1]


class Certifier:
    """Whether, and from which z on, a namespace may serve its neighbours' vectors."""

    def __init__(self, settings: CertifierSettings) -> None:
        self.settings = settings
        self.version = 0
        self.openings = 0
        self.budget: ErrorBudget | None = None
        self.certificate = self._fresh()
        self._pairs: dict[int, None] = {}

    @property
    def phase(self) -> str:
        """`testing` or `serving`."""
        return "testing" if self.budget is None else "serving"

    @property
    def tau(self) -> float | None:
        """Serve candidates with z >= tau; None: serve nothing."""
        return None if self.budget is None else self.certificate.tau

    @property
    def verify_probability(self) -> float:
        """With which probability the next hit must be checked, to be drawn before anything else is known of it."""
        return 1.0 if self.budget is None else self.budget.verify_probability

    def add_hit(self) -> None:
        """A neighbour's vector was served."""
        if self.budget is not None:
            self.budget.add_hit()

    def add_label(self, label: Label) -> None:
        """Count one comparison. Labels of an earlier round are left out."""
        if label.version != self.version:
            return
        is_violation = label.similarity < self.settings.fidelity
        if label.was_hit and self.budget is not None:
            self.budget.add_check(is_violation, label.probability)
        if self._is_new(label.pair):
            self.certificate.add(label.z, is_violation, label.weight)
        if self.budget is not None:
            if self.budget.is_spent:
                self.openings += 1
                self.start_next_round()
        elif self._may_serve():
            self.budget = ErrorBudget.start(self.settings.budget.after(self.openings))
        elif self.certificate.tests[-1].labels >= self.settings.patience * 2**self.version:
            self.start_next_round()

    def _may_serve(self) -> bool:
        """Whether a level is proven and, once the breaker has opened, has labels enough for a comeback."""
        place = self.certificate.loosest_proven
        if place is None:
            return False
        wanted = self.settings.comeback * 2 ** (self.openings - 1) if self.openings else 0
        return self.certificate.tests[place].labels >= wanted

    def _is_new(self, pair: int) -> bool:
        if pair in self._pairs:
            return False
        self._pairs[pair] = None
        if len(self._pairs) > self.settings.remembered_pairs:
            del self._pairs[next(iter(self._pairs))]
        return True

    def _fresh(self) -> Certificate:
        beta = self.settings.beta * (1 - ROUND_SHARE) * ROUND_SHARE**self.version
        return Certificate.start(self.settings.levels(), self.settings.alpha, beta)

    def start_next_round(self) -> None:
        """Drop what was proven and test anew, with the confidence that is left."""
        self.version += 1
        self.budget = None
        self.certificate = self._fresh()

    def summary(self) -> dict[str, Any]:
        """What headers, metrics and explain show."""
        shown: dict[str, Any] = {
            "phase": self.phase,
            "version": self.version,
            "breaker_openings": self.openings,
            "tau": self.tau,
        }
        shown["certificate"] = self.certificate.summary()
        if self.budget is not None:
            shown["budget"] = {
                "balance": self.budget.balance,
                "hits": self.budget.hits,
                "verified": self.budget.verified,
                "violations": self.budget.violations,
                "verify_probability": self.budget.verify_probability,
            }
        return shown

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `from_state` reads: under 50 kB."""
        return {
            "state_version": STATE_VERSION,
            "fidelity": self.settings.fidelity,
            "version": self.version,
            "openings": self.openings,
            "pairs": list(self._pairs),
            "certificate": self.certificate.to_state(),
            "budget": self.budget.to_state() if self.budget else None,
        }

    @classmethod
    def from_state(cls, settings: CertifierSettings, state: dict[str, Any]) -> "Certifier":
        """The state that `to_state` wrote. Raises ValueError, KeyError or TypeError on anything else.

        A state under another policy (fidelity, alpha or levels were changed since) is refused: nothing is proven then.
        """
        if state["state_version"] != STATE_VERSION or state["fidelity"] != settings.fidelity:
            raise ValueError("a certifier state of another version or fidelity")
        certifier = cls(settings)
        certifier.version, certifier.openings = int(state["version"]), int(state["openings"])
        certifier._pairs = {int(pair): None for pair in state["pairs"]}
        certifier.certificate = Certificate.from_state(state["certificate"])
        if certifier.certificate.levels != settings.levels() or certifier.certificate.tests[0].alpha != settings.alpha:
            raise ValueError("a certifier state of other levels or another alpha")
        if state["budget"] is not None:
            certifier.budget = ErrorBudget.from_state(settings.budget.after(certifier.openings), state["budget"])
        return certifier
