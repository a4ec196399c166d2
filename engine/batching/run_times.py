"""How long runs take, by the lengths of their texts and by what runs took lately.

Attention compares every token of a text with every other, so a text of n tokens takes as long as
n (1 + n / double_cost_tokens) tokens of short texts, which are called short tokens here. `double_cost_tokens` is a
property of model and machine, measured once; the rate of short tokens follows the runs.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

RATE_MEMORY = 0.95  # weight of the past in the measured rates: about the last 20 runs


class Load(NamedTuple):
    """Texts by the sum of their lengths in tokens, and by the sum of the lengths' squares."""

    tokens: int
    squares: int


def load(lengths: Iterable[int]) -> Load:
    """The load of texts with these lengths."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length * length
    return Load(tokens, squares)


class RunTimes:
    """Estimates for one worker, from a first guess `tokens_per_s` of the rate of short texts.

    double_cost_tokens: the length of a text whose tokens take twice as long as those of short ones.
    """

    def __init__(self, tokens_per_s: float, double_cost_tokens: float = math.inf) -> None:
        self._double_cost_tokens = double_cost_tokens
        self._tokens = self._short_tokens = tokens_per_s  # decayed sums, whose quotients are the rates
        self._run_s = 1.0

    @property
    def tokens_per_s(self) -> float:
        """The rate lately, over texts of whatever lengths there were, without padding."""
        return self._tokens / self._run_s

    def expected_s(self, texts: Load) -> float:
        """How long a run of these should take."""
        return self._in_short_tokens(texts) * self._run_s / self._short_tokens

    def measured(self, texts: Load, run_s: float) -> None:
        """A run of these took so long."""
        self._tokens = RATE_MEMORY * self._tokens + texts.tokens
        self._short_tokens = RATE_MEMORY * self._short_tokens + self._in_short_tokens(texts)
        self._run_s = RATE_MEMORY * self._run_s + run_s

    def _in_short_tokens(self, texts: Load) -> float:
        return texts.tokens + texts.squares / self._double_cost_tokens
