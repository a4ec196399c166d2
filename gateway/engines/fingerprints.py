"""Whose vectors are served, where engines have different fingerprints. Pure: no I/O, and the clock is handed in.

choice = FingerprintChoice(configured, clock)
choice.update([(fingerprint, is_ready), ...], all_seen)  ->  the fingerprint in service; None: none yet

A configured fingerprint is the one in service, whatever else there is. Otherwise:

- the first choice is what most ready engines have, once each was looked at (or FIRST_S is over);
- it stays for as long as a ready engine has it, unless others have been the majority of the ready for MAJORITY_S;
- where no ready engine has it, another one takes over at once if as many engines are ready with it as are known with
  the old one, and otherwise after ABSENT_S.

So a rolling change of n engines changes the fingerprint once: when most have changed, or when the last old one goes.
A restart or a lost connection of all old engines at once, beside a few with another model on trial, changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

FIRST_S: Final = 2.0
MAJORITY_S: Final = 10.0
ABSENT_S: Final = 5.0


class FingerprintChoice:
    """The fingerprint in service, and for how long another one has had the better claim."""

    def __init__(self, configured: str | None, clock: Callable[[], float], current: str | None = None) -> None:
        self.current = configured or current
        self._configured = configured
        self._clock = clock
        self._first_seen_at: float | None = None
        self._rival: str | None = None
        self._rival_since = 0.0

    def update(self, known: Sequence[tuple[str, bool]], all_seen: bool) -> str | None:
        """The fingerprint in service, by those of the engines that are known and whether each is ready."""
        if self._configured is not None or not known:
            return self.current
        ready = Counter(fingerprint for fingerprint, is_ready in known if is_ready)
        if self.current is None:
            self._choose_first(ready or Counter(fingerprint for fingerprint, _ in known), all_seen)
        else:
            self._follow(ready, sum(fingerprint == self.current for fingerprint, _ in known))
        return self.current

    def _choose_first(self, ready: "Counter[str]", all_seen: bool) -> None:
        now = self._clock()
        if self._first_seen_at is None:
            self._first_seen_at = now
        if all_seen or now - self._first_seen_at >= FIRST_S:
            self.current = _most(ready)

    def _follow(self, ready: "Counter[str]", known_with_current: int) -> None:
        current = ready.pop(self.current or "", 0)
        rival = _most(ready) if ready else None
        if rival is None or ready[rival] <= current:
            self._rival = None
            return
        now = self._clock()
        if rival != self._rival:
            self._rival, self._rival_since = rival, now
        hold_s = MAJORITY_S if current else ABSENT_S
        takes_over = not current and ready[rival] >= known_with_current
        if takes_over or now - self._rival_since >= hold_s:
            self.current, self._rival = rival, None


def _most(counts: "Counter[str]") -> str:
    """The most frequent; of equals always the same one, so that gateways agree."""
    return max(sorted(counts), key=lambda fingerprint: counts[fingerprint])
