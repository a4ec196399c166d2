"""The circuit breaker in front of Redis.

A call slower than its limit counts as a failure, because a cache that is slow is worse than none. So the breaker opens
early, for a short time at first, and one trial decides.
"""

import time
from collections.abc import Callable

from common.breaker import BreakerPolicy, CircuitBreaker


class Breaker(CircuitBreaker):
    """A breaker with Redis' limits."""

    def __init__(
        self,
        failures_to_open: int = 3,
        open_s: float = 0.5,
        max_open_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(BreakerPolicy(failures_to_open, open_s, max_open_s=max_open_s), clock)
