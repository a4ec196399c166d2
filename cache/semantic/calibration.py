"""The label table of a namespace and its curve: what any tau and fidelity would have meant.

    reused(tau)                = weight of labels with z >= tau / weight of all look-ups
    violations(tau, fidelity)  = weight with z >= tau and true similarity < fidelity / weight with z >= tau

A miss is always labelled and weighs 1; a hit is labelled with a probability and weighs 1 / probability, so that the
weights stand for look-ups. Look-ups that found nothing to serve count in the first formula only. When the total
passes `HALVED_AT` everything is halved, so the table follows the traffic.

How sure a share of violations is depends on the labels behind it, and unequal weights make them count for less: n =
(sum of weights)^2 / sum of squared weights (Kish 1965), which Wilson's interval (1927) is made with.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

LOWEST: Final = 0.80
BIN_WIDTH: Final = 0.005
BINS: Final = 41  # one below LOWEST, forty from there to 1
HALVED_AT: Final = 20_000.0
MAX_WEIGHT: Final = 1000.0  # of one label, whatever an event holds
FEWEST_LABELS: Final = 20  # for a reading
SHOWN_FIDELITIES: Final = (0.90, 0.92, 0.95)
Z_95: Final = 1.959964  # quantile of the normal distribution for an interval of 95 %

Float64Array = npt.NDArray[np.float64]


def bin_of(similarity: float) -> int:
    """The bin of a similarity: 0 below `LOWEST`, the last one for 1 and above. Bins hold their lower edge."""
    return min(BINS - 1, max(0, math.floor((similarity - LOWEST) / BIN_WIDTH + 1e-9) + 1))


def lower_edge(index: int) -> float:
    """The least similarity of a bin; -1 for the one below `LOWEST`."""
    return -1.0 if index == 0 else round(LOWEST + (index - 1) * BIN_WIDTH, 6)


def _first_bin_from(similarity: float) -> int:
    """The first bin that lies wholly at or above a similarity; `BINS` when none does."""
    index = bin_of(similarity)
    return index if lower_edge(index) >= similarity - 1e-9 else index + 1


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What one tau would mean: shares in [0, 1]; `violations` is None where nothing would be reused.

    `labels`: how many labels of equal weight would say as much of `violations`.
    """

    tau: float
    fidelity: float
    reused: float
    violations: float | None
    labels: float = 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `violations`."""
        return None if self.violations is None else wilson(self.violations, self.labels)


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share seen in n trials (Wilson 1927); all of [0, 1] for none."""
    if n <= 0:
        return 0.0, 1.0
    spread = Z_95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(slots=True)
class LabelTable:
    """`weights`: float64[z bin, true bin]; `sums`, `squares`: weighted true similarity and squared weights a z bin;
    `empty`: look-ups that found nothing to serve; `labels`: how many labels the weights come from. All are halved
    together."""

    weights: Float64Array = field(default_factory=lambda: np.zeros((BINS, BINS)))
    sums: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    squares: Float64Array = field(default_factory=lambda: np.zeros(BINS))
    empty: float = 0.0
    labels: float = 0.0

    @property
    def total(self) -> float:
        """The weight of all look-ups."""
        return float(self.weights.sum()) + self.empty

    def add(self, z: float, similarity: float, weight: float = 1.0) -> None:
        """One label: the z of a look-up's best candidate and its true cosine similarity."""
        weight = min(weight, MAX_WEIGHT)
        row = bin_of(z)
        self.weights[row, bin_of(similarity)] += weight
        self.sums[row] += weight * similarity
        self.squares[row] += weight * weight
        self.labels += 1
        self._forget()

    def add_empty(self, lookups: int) -> None:
        """Look-ups that found no candidate, or one whose vector was gone."""
        self.empty += lookups
        self._forget()

    def what_if(self, tau: float, fidelity: float) -> WhatIf:
        """What serving from `tau` on would mean at a fidelity.

        Between the bins' edges both are taken up to the next one: fewer hits, more violations, never a better answer.
        """
        first = _first_bin_from(tau)
        served = self.weights[first:]
        weight = float(served.sum())
        bad = float(served[:, : _first_bin_from(fidelity)].sum())
        reused = weight / self.total if self.total > 0 else 0.0
        labels = _labels(weight, float(self.squares[first:].sum()))
        return WhatIf(tau, fidelity, reused, bad / weight if weight > 0 else None, labels)

    def loosest_tau(self, fidelity: float, alpha: float) -> WhatIf | None:
        """The loosest tau of a bin's edge above `LOWEST` at which at most alpha of the reused would violate."""
        for index in range(1, BINS):
            found = self.what_if(lower_edge(index), fidelity)
            if found.violations is not None and found.violations <= alpha:
                return found
        return None

    def bins(self) -> list[dict[str, Any]]:
        """Each z bin that holds labels: lower edge, weight, labels of equal weight, mean true similarity, and
        [true edge, weight] pairs."""
        found = []
        for row in np.flatnonzero(self.weights.sum(axis=1)):
            cells = self.weights[row]
            weight = float(cells.sum())
            found.append(
                {
                    "z_from": lower_edge(int(row)),
                    "weight": round(weight, 3),
                    "labels": round(_labels(weight, float(self.squares[row])), 3),
                    "mean_true_similarity": round(float(self.sums[row]) / weight, 6),
                    "true_from": [[lower_edge(int(bin)), round(float(cells[bin]), 3)] for bin in np.flatnonzero(cells)],
                }
            )
        return found

    def curve(self, fidelities: tuple[float, ...] = SHOWN_FIDELITIES) -> list[dict[str, Any]]:
        """For the tau of each bin's edge: the share reused, and the share of it that violates at each fidelity, with
        its 95 % interval."""
        points = []
        for tau in (lower_edge(index) for index in range(1, BINS)):
            answers = [self.what_if(tau, fidelity) for fidelity in fidelities]
            violations = {f"{a.fidelity:g}": None if a.violations is None else round(a.violations, 6) for a in answers}
            intervals = {f"{a.fidelity:g}": a.interval and [round(end, 6) for end in a.interval] for a in answers}
            reused = round(answers[0].reused, 6)
            points.append({"tau": tau, "reused": reused, "violations": violations, "intervals": intervals})
        return points

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `from_state` reads: only cells that hold something, at most some 30 kB."""
        cells = [
            [int(row), int(bin), round(float(self.weights[row, bin]), 3)] for row, bin in np.argwhere(self.weights)
        ]
        sums = [round(float(value), 4) for value in self.sums]
        squares = [round(float(value), 3) for value in self.squares]
        counts = {"empty": round(self.empty, 3), "labels": round(self.labels, 3)}
        return {"cells": cells, "sums": sums, "squares": squares, **counts}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "LabelTable":
        """The table that `to_state` wrote. Raises KeyError, TypeError, ValueError or IndexError on anything else."""
        table = cls(empty=_weight(state["empty"]), labels=_weight(state["labels"]))
        for row, bin, weight in state["cells"]:
            if row < 0 or bin < 0:
                raise ValueError("a bin below the first")
            table.weights[row, bin] = _weight(weight)
        if len(state["sums"]) != BINS:
            raise ValueError("sums of another number of bins")
        table.sums[:] = [float(value) for value in state["sums"]]
        table.squares[:] = _squares(state.get("squares"), table)
        return table

    def _forget(self) -> None:
        if self.total > HALVED_AT:
            self.weights /= 2
            self.sums /= 2
            self.squares /= 2
            self.empty /= 2
            self.labels /= 2


def reading(table: LabelTable, tau: float | None, fidelity: float, alpha: float) -> str:
    """One line for people: what the tau in force means, or, where none is, how far the labels would let one go."""
    if table.labels < 1:
        return "no labels yet: nothing can be said"
    if table.labels < FEWEST_LABELS:
        return f"only {table.labels:,.0f} labels: too few to go by"
    labels = f"{table.labels:,.0f} labels"
    if tau is not None:
        return f"{_sentence(table.what_if(tau, fidelity))} ({labels})"
    found = table.loosest_tau(fidelity, alpha)
    if found is None:
        return f"nothing is served; at no tau would at most {alpha:.1%} of the reused be below {fidelity:g} ({labels})"
    return f"nothing is served; {_sentence(found)} ({labels}, unproven)"


def _sentence(answer: WhatIf) -> str:
    if answer.violations is None:
        return f"at tau {answer.tau:.3f} nothing would be reused"
    reused, violations = 100 * answer.reused, 100 * answer.violations
    return (
        f"at tau {answer.tau:.3f} {reused:.1f} % of look-ups would be reused, "
        f"{violations:.1f} % of them below {answer.fidelity:g}"
    )


def _labels(weight: float, squares: float) -> float:
    """How many labels of equal weight would say as much: Kish's effective sample size."""
    return weight * weight / squares if squares > 0 else 0.0


def _squares(saved: Any, table: LabelTable) -> Float64Array:
    """The saved squares; of a version that kept none, as if all labels of the table had weighed the same."""
    weights = table.weights.sum(axis=1)
    if saved is None:
        mean = float(weights.sum()) / table.labels if table.labels > 0 else 1.0
        return np.asarray(weights * mean, dtype=np.float64)
    squares = np.array([float(value) for value in saved], dtype=np.float64)
    if squares.shape != (BINS,) or not np.isfinite(squares).all() or (squares < 0).any():
        raise ValueError("squares of another kind")
    return squares


def _weight(value: Any) -> float:
    weight = float(value)
    if not 0 <= weight <= 2 * HALVED_AT:
        raise ValueError(f"{value!r} is no weight")
    return weight
