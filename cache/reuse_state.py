"""One scope's learned state as a gateway holds it: threshold, certificate, governor, and its exchange with the others.

Labels go to the shared stream; whoever holds the lease folds them into the state that all read. The governor is this
process's own: it measures this process's costs. Knows nothing of vectors or of how z is made.
"""

import time
from typing import TYPE_CHECKING, Any

from cache.governor import Governor
from cache.reuse import AutoReuse, Label
from cache.reuse_log import ReuseLog, Saved
from cache.threshold import DynamicThreshold

if TYPE_CHECKING:
    from cache.semantic import Lookup, SemanticSettings

MAX_HITS_IN_EVENT = 100_000
EARLY_CHECKS = 20  # the first hits of a scope in `on` mode are all checked


class ScopeState:
    """State of one (model, namespace, epoch), named by its tag."""

    def __init__(self, tag: str, settings: "SemanticSettings", probe_id: str) -> None:
        self.tag = tag
        self._identity = f"{probe_id}:{settings.reuse.fidelity}:{settings.reuse.alpha}:{settings.reuse.beta}"
        self.used_at = time.monotonic()
        self.governor = Governor(settings.governor)
        self.reuse = AutoReuse(settings.reuse)
        self.threshold = DynamicThreshold(settings.threshold)
        self.served = {"hits": 0, "checked": 0, "violations": 0}
        self._settings = settings
        self._last_event = "0-0"
        self._events: list[dict[str, Any]] = []
        self._paused_until: str | None = None  # an event id; "" while it is not known yet

    @property
    def is_paused(self) -> bool:
        """A violation was seen here that the shared state does not hold yet."""
        return self._paused_until is not None

    @property
    def early_check_probability(self) -> float:
        """All of a scope's first hits are checked, then a falling share."""
        return min(1.0, EARLY_CHECKS / max(self.served["checked"], 1))

    def count_hits(self, hits: int) -> None:
        """Vectors were served."""
        if hits:
            self._events.append({"i": self._identity, "k": "hits", "n": hits})

    def add_label(self, pair: int, lookup: "Lookup", similarity: float, was_hit: bool, is_violation: bool) -> None:
        """Record one comparison; it is shared at the next exchange."""
        assert lookup.choice is not None
        event: dict[str, Any] = {
            "i": self._identity,
            "k": "label",
            "p": pair,
            "z": round(lookup.choice.z, 6),
            "s": round(similarity, 6),
        }
        event |= {"v": lookup.version, "h": was_hit, "q": lookup.probability}
        self._events.append(event)
        if was_hit and is_violation:
            self._paused_until = ""

    def served_summary(self) -> dict[str, Any]:
        """Hits served in this scope by all gateways, how many were checked, and how many of those violated."""
        return dict(self.served)

    async def sync(self, log: ReuseLog) -> None:
        """Send own events; then fold all new ones in if this gateway is the writer, and take the shared state.

        Raises RedisAway; events stay for the next time.
        """
        if self._events:
            sent = self._events[:256]
            last = await log.append(self.tag, sent)
            del self._events[: len(sent)]
            if self._paused_until == "" and not self._events:
                self._paused_until = last
        is_writer = await log.take_lease(self.tag)
        saved = await log.load(self.tag)
        self._take(saved)
        if is_writer:
            await self._fold(log)
        if self._paused_until and _order(self._last_event) >= _order(self._paused_until):
            self._paused_until = None

    async def _fold(self, log: ReuseLog) -> None:
        while events := await log.events_after(self.tag, self._last_event):
            for event_id, event in events:
                self._apply(event)
                self._last_event = event_id
            if not await log.save(self.tag, Saved(self._last_event, self._to_state())):
                return

    def _apply(self, event: dict[str, Any]) -> None:
        """One event into the state; one that is damaged, or of another probe or promise, is skipped."""
        if event.get("i") != self._identity:
            return
        try:
            if event.get("k") == "hits":
                hits = min(int(event["n"]), MAX_HITS_IN_EVENT)
                self.served["hits"] += hits
                for _ in range(hits):
                    self.reuse.add_hit()
                return
            label = Label(
                pair=int(event["p"]),
                z=float(event["z"]),
                similarity=float(event["s"]),
                version=int(event["v"]),
                was_hit=bool(event["h"]),
                probability=float(event["q"]),
            )
            self.reuse.add_label(label)
        except (KeyError, TypeError, ValueError):
            return
        self.threshold.add_label(label.z, label.similarity, label.was_hit)
        if label.was_hit:
            self.served["checked"] += 1
            self.served["violations"] += label.similarity < self._settings.reuse.fidelity

    def _take(self, saved: Saved | None) -> None:
        if saved is None:
            return
        try:
            if saved.state["identity"] != self._identity:
                return  # another probe or another promise: what was proven then says nothing now
            reuse = AutoReuse.from_state(self._settings.reuse, saved.state["reuse"])
            threshold = DynamicThreshold.from_state(self._settings.threshold, saved.state["threshold"])
            served = {name: int(saved.state["served"][name]) for name in self.served}
        except (KeyError, TypeError, ValueError):
            return  # of another version: the writer starts afresh, and nothing is served until then
        self.reuse, self.threshold, self.served = reuse, threshold, served
        self._last_event = saved.last_event

    def _to_state(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "reuse": self.reuse.to_state(),
            "threshold": self.threshold.to_state(),
            "served": self.served,
        }


def _order(event_id: str) -> tuple[int, int]:
    """Stream ids in their order."""
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)
