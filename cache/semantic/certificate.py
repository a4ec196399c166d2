"""The certificate: proof that violations stay within their bound, by a betting test valid at any moment.

The claim at a level tau: of the requests with z >= tau, at most the share `alpha` would be served a vector below
the fidelity. A test starts with capital 1 and bets on every label of such a request:

    capital *= 1 + c * (alpha - violation) * weight,    0 <= c < 1 / (1 - alpha)

If the claim is false the capital is a supermartingale, so that it ever reaches 1 / beta has a probability of at most
beta (Ville's inequality; Waudby-Smith and Ramdas, 2023, "Estimating means of bounded random variables by betting",
section 4). Several bets run side by side with a share of the capital each; c = (alpha - p) / (alpha (1 - alpha)) is
the best one if the true share is p. A clean label multiplies the largest bet by up to 1 / (1 - alpha), so a lone
level needs 76 clean labels at alpha 5 % and 388 at 1 %; `tests/bounds.py` counts them. The guesses sit
where levels that prove themselves were seen to lie, a fifth to a half of alpha.

Levels, strict (high) to loose (low), are fixed before the first label and share beta evenly; the part of a proven
level passes to the next looser one (the fallback procedure: Wiens, 2003; valid whatever the dependence, at any
stopping time because the capitals are). A strictly fixed sequence would be stuck at its strictest level, which few
requests clear: on re-indexed documentation it proved nothing where this one did. tau is the loosest proven level.

A label's weight is what makes labels drawn with unequal probabilities comparable: the smallest probability with
which any request was labelled at that moment, divided by this request's own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

# Guessed shares of violations, as parts of alpha, and how the starting capital is spread over them.
GUESSES = ((0.05, 0.25), (0.25, 0.40), (0.45, 0.25), (0.7, 0.10))
NEGLIGIBLE = 1e-17  # part of a sum


@dataclass(slots=True)
class BettingTest:
    """One level's test of "at most alpha violations". `log_capital` holds one figure a guess."""

    alpha: float
    log_capital: list[float] = field(default_factory=lambda: [math.log(share) for _, share in GUESSES])
    best_log: float = 0.0  # the largest total so far: what has been proven stays proven
    labels: int = 0
    violations: int = 0

    def add(self, is_violation: bool, weight: float) -> None:
        """Bet on one label. `weight` in (0, 1]."""
        payoff = (self.alpha - is_violation) * weight
        for index, (guess, _) in enumerate(GUESSES):
            stake = (1 - guess) / (1 - self.alpha)  # (alpha - guess * alpha) / (alpha * (1 - alpha))
            self.log_capital[index] += math.log1p(stake * payoff)
        self.labels += 1
        self.violations += is_violation
        self.best_log = max(self.best_log, self.log_total)

    @property
    def log_total(self) -> float:
        """Logarithm of the capital now."""
        top = max(self.log_capital)
        return top + math.log(sum(math.exp(value - top) for value in self.log_capital))

    def is_proven(self, beta: float) -> bool:
        """Whether the capital has ever reached 1 / beta."""
        return self.best_log >= -math.log(beta)


@dataclass(slots=True)
class Certificate:
    """The tests of fixed levels, strict (high) to loose (low), and the confidence they may use up together."""

    levels: list[float]
    beta: float
    tests: list[BettingTest]

    @classmethod
    def start(cls, levels: Sequence[float], alpha: float, beta: float) -> "Certificate":
        """Fresh tests. Raises ValueError unless `levels` fall strictly."""
        if not levels or any(a <= b for a, b in pairwise(levels)):
            raise ValueError("levels must fall from strict to loose, each lower than the one before")
        return cls(list(levels), beta, [BettingTest(alpha) for _ in levels])

    def add(self, z: float, is_violation: bool, weight: float = 1.0) -> None:
        """Count one label for every level its z clears. Raises ValueError on a weight outside (0, 1]."""
        if not 0 < weight <= 1:
            raise ValueError(f"a label's weight lies in (0, 1], not {weight}")
        for level, test in zip(self.levels, self.tests, strict=True):
            if z >= level:
                test.add(is_violation, weight)

    @property
    def loosest_proven(self) -> int | None:
        """Place of the loosest proven level; None while nothing is proven."""
        share = self.beta / len(self.levels)
        passed_on, found = 0.0, None
        for place, test in enumerate(self.tests):
            beta = share + passed_on
            if test.is_proven(beta):
                passed_on, found = beta, place
            else:
                passed_on = 0.0
        return found

    @property
    def tau(self) -> float | None:
        """The loosest proven level; None while nothing is proven."""
        place = self.loosest_proven
        return None if place is None else self.levels[place]

    def summary(self) -> dict[str, Any]:
        """What headers, metrics and explain show of it."""
        place = self.loosest_proven
        test = self.tests[-1 if place is None else place]
        return {
            "tau": self.tau,
            "alpha": test.alpha,
            "confidence": 1 - self.beta,
            "labels": test.labels,
            "violations": test.violations,
            "upper_bound": upper_bound(test.violations, test.labels, self.beta),
        }

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `from_state` reads."""
        return {
            "levels": self.levels,
            "beta": self.beta,
            "alpha": self.tests[0].alpha,
            "tests": [[*test.log_capital, test.best_log, test.labels, test.violations] for test in self.tests],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Certificate":
        """The certificate that `to_state` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        certificate = cls.start(state["levels"], float(state["alpha"]), float(state["beta"]))
        for test, (*capital, best, labels, violations) in zip(certificate.tests, state["tests"], strict=True):
            if len(capital) != len(GUESSES):
                raise ValueError("a certificate of another version")
            test.log_capital = [float(value) for value in capital]
            test.best_log, test.labels, test.violations = float(best), int(labels), int(violations)
        return certificate


def upper_bound(violations: int, labels: int, beta: float) -> float:
    """Upper end of Clopper and Pearson's interval for a share: for display, where one looks once.

    Found by bisection on the binomial tail P(X <= violations) = beta.
    """
    if labels == 0 or violations >= labels:
        return 1.0
    low, high = violations / labels, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if binomial_cdf(violations, labels, middle) > beta:
            low = middle
        else:
            high = middle
    return high


def binomial_cdf(successes: int, trials: int, share: float) -> float:
    """P(X <= successes) for X binomial(trials, share): its largest term, and outwards from there what counts."""
    if share <= 0 or successes >= trials:
        return 1.0
    if share >= 1 or successes < 0:
        return 0.0
    largest = min(successes, int((trials + 1) * share))
    log_term = math.lgamma(trials + 1) - math.lgamma(largest + 1) - math.lgamma(trials - largest + 1)
    log_term += largest * math.log(share) + (trials - largest) * math.log1p(-share)
    odds = share / (1 - share)
    below = _sum_of_falling(k / ((trials - k + 1) * odds) for k in range(largest, 0, -1))
    above = _sum_of_falling((trials - k) * odds / (k + 1) for k in range(largest, successes))
    return min(math.exp(log_term + math.log(1 + below + above)), 1.0)


def _sum_of_falling(ratios: Iterable[float]) -> float:
    """The terms that follow 1, each by its ratio to the one before; of a million some thousands count, and no more."""
    term, total = 1.0, 0.0
    for ratio in ratios:
        term *= ratio
        total += term
        if term < NEGLIGIBLE * total:
            break
    return total
