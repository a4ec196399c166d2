"""When a call that waits is sent to one engine more. Pure: no I/O, and times are handed in.

Vectors depend on nothing but the token ids and the fingerprint, so the same call may run on two engines: a call that
may have run is tried again like one that has not. What that may cost is bounded for each call by MAX_RUNS, and for all
calls together, where the first engine may yet answer, by `ExtraCalls`.
"""

from typing import Final

from gateway.engines.balance import SILENT_S, EngineLoad

MAX_ATTEMPTS: Final = 6  # of one call, those that never began included
MAX_RUNS: Final = 3  # of one call: a text that ends the engine it runs on ends no more than so many
LATE_FACTOR: Final = 5.0  # times the expected time
EXTRA_SHARE: Final = 0.1
EXTRA_AT_ONCE: Final = 20.0


class ExtraCalls:
    """Calls sent to a second engine while the first may still answer: a tenth of all, 20 at once.

    Without a bound, engines that are slow because they have too much to do would get everything twice.
    """

    def __init__(self) -> None:
        self._left = EXTRA_AT_ONCE

    def call(self) -> None:
        """One call came in."""
        self._left = min(EXTRA_AT_ONCE, self._left + EXTRA_SHARE)

    def take(self) -> bool:
        """Whether one may be sent twice now."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


def has_stopped(load: EngineLoad, sent_at: float, now: float) -> bool:
    """Whether the engine has answered nothing at all since it got a call, for as long as makes it silent."""
    return load.heard_at <= sent_at and now - sent_at >= SILENT_S


def is_late(load: EngineLoad, sent_at: float, expected_s: float, deadline_s: float, now: float) -> bool:
    """Whether a call takes suspiciously long on an engine that answers no other call either.

    Later than LATE_FACTOR times `expected_s` (two seconds at least), or than half of `deadline_s`, what the call had
    when it was sent: then another engine can still make it. An engine that answers other calls is busy, not stuck.
    """
    waited_s = now - max(sent_at, load.answered_at)
    return waited_s >= min(max(SILENT_S, LATE_FACTOR * expected_s), deadline_s / 2)
