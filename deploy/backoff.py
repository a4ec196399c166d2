"""How long to wait before a process is started again. Numbers in, numbers out."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Exponential delays with jitter: first_s, doubled with each failure in a row, never above max_s.

    A run of at least stable_s makes the next failure the first again. The jitter takes away up to a quarter,
    so that processes which died together do not come back together.
    """

    first_s: float
    max_s: float
    stable_s: float
    source: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next_delay_s(self, uptime_s: float) -> float:
        """The delay after a run of `uptime_s`, which counts as one more failure."""
        self.failures = 1 if uptime_s >= self.stable_s else self.failures + 1
        delay = min(self.first_s * 2.0 ** min(self.failures - 1, 60), self.max_s)
        return delay * (1 - 0.25 * self.source.random())
