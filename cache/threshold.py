"""Which candidate may be served, and the threshold that moves in `on` mode. Pure; no I/O, no clock.

    z = predicted similarity - margin * spread,    serve the candidate with the highest z if z >= tau

`on` mode's tau starts at `similarity_threshold` and moves within its floor and ceiling by what labels tell:
up two steps when checked hits violated more than alpha allows, down one step when nearly all near misses (z less than
`near` under tau) would have been good.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cache.kriging import Kernel, predict
from cache.probe import Float32Array

EARLY_CHECKS = 20  # the first hits of a scope in `on` mode


@dataclass(frozen=True, slots=True)
class Predictor:
    """How z is made: the kernel, and the margin that a unit of spread costs."""

    kernel: Kernel = field(default_factory=Kernel)
    margin: float = 0.2

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Predictor":
        """The prior that the probe's file carries ("reach", "noise", "margin"), or the defaults."""
        kernel = Kernel(float(meta.get("reach", 2.0)), float(meta.get("noise", 0.02)))
        return cls(kernel, float(meta.get("margin", 0.2)))

    @property
    def cautious(self) -> "Predictor":
        """For `on` mode, which has no certificate: the margin doubled.

        Measured on five streams at fidelity 0.92: of the first 50 hits 2-15 % violated instead of 0-19 %.
        """
        return replace(self, margin=2 * self.margin)


def on_predictor(predictor: Predictor, has_map: bool) -> Predictor:
    """How z is made in `on` mode: cautiously, and twice so until the namespace has a map of its own."""
    return predictor.cautious if has_map else predictor.cautious.cautious


def on_check_probability(checked: int, least: float) -> float:
    """With which probability the next hit in `on` mode is checked: all of the first, then a falling share."""
    return max(least, min(1.0, EARLY_CHECKS / max(checked, 1)))


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate: its place among the candidates and the parts of its z."""

    index: int
    probe_similarity: float
    similarity: float
    margin: float
    z: float


def choose(
    predictor: Predictor,
    probe: Float32Array,
    probes: Float32Array,
    vectors: Float32Array,
    trend: Float32Array | None = None,
) -> Choice | None:
    """The candidate with the highest z, or None where there is no candidate.

    probe: float32[d]; probes, vectors: float32[k, d]; trend: float32[d, d], as `kriging.predict` takes them.
    """
    if len(probes) == 0:
        return None
    prediction = predict(predictor.kernel, probe, probes, vectors, trend)
    index = int(np.argmax(prediction.similarity))
    similarity = float(prediction.similarity[index])
    margin = predictor.margin * prediction.spread
    return Choice(index, float(prediction.probe_similarity[index]), similarity, margin, similarity - margin)


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """`similarity_threshold` is where tau starts, but not under the fidelity, which no label has spoken for yet.

    `window`: labels looked at; `fewest`: labels before a move.
    """

    similarity_threshold: float = 0.92
    threshold_floor: float = 0.88
    threshold_ceiling: float = 0.98
    fidelity: float = 0.92
    alpha: float = 0.05
    step: float = 0.005
    near: float = 0.02
    window: int = 100
    fewest: int = 20

    def __post_init__(self) -> None:
        if not self.threshold_floor <= self.similarity_threshold <= self.threshold_ceiling:
            raise ValueError(
                f"similarity_threshold {self.similarity_threshold:g} must lie between threshold_floor "
                f"{self.threshold_floor:g} and threshold_ceiling {self.threshold_ceiling:g}"
            )

    @property
    def start(self) -> float:
        """tau before the first label."""
        return min(self.threshold_ceiling, max(self.similarity_threshold, self.fidelity))


@dataclass(slots=True)
class DynamicThreshold:
    """tau of one namespace in `on` mode. `reason` says why it moved last."""

    settings: ThresholdSettings
    tau: float = 0.0
    reason: str = "start"
    _hits: deque[bool] = field(default_factory=deque)
    _near_misses: deque[bool] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.tau = self.tau or self.settings.start
        self._hits = deque(self._hits, maxlen=self.settings.window)
        self._near_misses = deque(self._near_misses, maxlen=self.settings.window)

    def add_label(self, z: float, similarity: float, was_hit: bool) -> bool:
        """Learn the true similarity of a checked hit, or of a miss's best candidate; whether tau moved."""
        is_violation = similarity < self.settings.fidelity
        if was_hit:
            self._hits.append(is_violation)
            return self._raise_after_violations()
        if self.tau - self.settings.near <= z < self.tau:
            self._near_misses.append(is_violation)
            return self._lower_after_good_misses()
        return False

    def _raise_after_violations(self) -> bool:
        violations = sum(self._hits)
        if violations < 2 or violations <= self.settings.alpha * len(self._hits) + 1:
            return False
        reason = f"{violations} of {len(self._hits)} checked hits violated"
        return self._move(min(self.settings.threshold_ceiling, self.tau + 2 * self.settings.step), reason)

    def _lower_after_good_misses(self) -> bool:
        seen, violations = len(self._near_misses), sum(self._near_misses)
        if seen < self.settings.fewest or violations > self.settings.alpha / 2 * seen:
            return False
        if sum(self._hits) > self.settings.alpha / 2 * len(self._hits) + 1:
            return False
        reason = f"{seen - violations} of {seen} near misses would have been good"
        return self._move(max(self.settings.threshold_floor, self.tau - self.settings.step), reason)

    def _move(self, tau: float, reason: str) -> bool:
        self._hits.clear()
        self._near_misses.clear()
        moved = abs(tau - self.tau) > 1e-9
        if moved:
            self.tau, self.reason = round(tau, 6), reason
        return moved

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `from_state` reads."""
        hits, misses = [int(bad) for bad in self._hits], [int(bad) for bad in self._near_misses]
        return {"tau": self.tau, "reason": self.reason, "hits": hits, "near_misses": misses}

    @classmethod
    def from_state(cls, settings: ThresholdSettings, state: dict[str, Any]) -> "DynamicThreshold":
        """The threshold that `to_state` wrote, pulled into the bounds that hold now. Raises KeyError or ValueError."""
        tau = min(settings.threshold_ceiling, max(settings.threshold_floor, float(state["tau"])))
        hits = deque(bool(bad) for bad in state["hits"])
        return cls(settings, tau, str(state["reason"]), hits, deque(bool(bad) for bad in state["near_misses"]))
