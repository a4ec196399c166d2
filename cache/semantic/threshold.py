"""Mode `on`: the threshold tau that z must reach, moved by labels.

tau starts at `similarity_threshold` and moves within its floor and ceiling: up two steps when checked hits violated
more than alpha allows, down one step when nearly all near misses (z less than `near` under tau) would have been good.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

EARLY_CHECKS = 20  # the first hits of a namespace


def verify_probability(checked: int, least: float) -> float:
    """With which probability the next hit in mode `on` is checked: all of the first, then a falling share."""
    return max(least, min(1.0, EARLY_CHECKS / max(checked, 1)))


@dataclass(frozen=True, slots=True)
class ThresholdSettings:
    """`similarity_threshold` is where tau starts, but not under the fidelity while there are no labels.

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
    """tau of one namespace in mode `on`. `reason`: why it moved last."""

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
        """Count the true similarity of a checked hit, or of a miss's best neighbour; returns whether tau moved."""
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
