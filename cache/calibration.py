"""From the predicted similarity to the one that came true: a monotone map, fitted to labels. Pure; no I/O.

`on` mode needs it, since there tau is a similarity. `auto` mode tests levels of the uncalibrated z, so no label is
ever used for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PRIOR_STEP = 0.02  # the prior's knots


@dataclass(frozen=True, slots=True)
class MonotoneMap:
    """Piecewise linear and rising: knots (x, y), flat beyond the ends of its knots by the distance to them."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def __call__(self, z: float) -> float:
        """The calibrated similarity, at most 1."""
        xs, ys = self.xs, self.ys
        if z <= xs[0]:
            return ys[0] + z - xs[0]
        if z >= xs[-1]:
            return min(1.0, ys[-1] + z - xs[-1])
        low, high = 0, len(xs) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if xs[middle] <= z else (low, middle)
        return ys[low] + (ys[high] - ys[low]) * (z - xs[low]) / (xs[high] - xs[low])


IDENTITY = MonotoneMap((0.0, 1.0), (0.0, 1.0))


def fit_map(
    labels: Sequence[tuple[float, float]], prior: MonotoneMap = IDENTITY, prior_weight: float = 8
) -> MonotoneMap:
    """Isotonic regression of the true similarity on z (pool adjacent violators; Ayer et al., 1955).

    The prior stands beside the labels as `prior_weight` labels on each of its steps, so few labels move it little.
    """
    steps = [0.6 + PRIOR_STEP * step for step in range(int(0.4 / PRIOR_STEP) + 1)]
    points = sorted([(x, prior(x), prior_weight) for x in steps] + [(z, true, 1.0) for z, true in labels if z >= 0.6])
    blocks: list[list[float]] = []  # [weight, sum of x, sum of y]
    for x, y, weight in points:
        blocks.append([weight, weight * x, weight * y])
        while len(blocks) > 1 and blocks[-2][2] / blocks[-2][0] >= blocks[-1][2] / blocks[-1][0]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    xs: list[float] = []
    ys: list[float] = []
    for weight, sum_x, sum_y in blocks:
        if not xs or sum_x / weight - xs[-1] > 1e-6:
            xs.append(sum_x / weight)
            ys.append(sum_y / weight)
    return MonotoneMap(tuple(xs), tuple(ys)) if len(xs) > 1 else prior
