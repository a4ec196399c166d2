"""What gateways exchange about a partition: labels and counts as small JSON objects, and those that wait to be sent.

o, t  origin: which gateway's partition counted this, and its number there, microseconds that only move forward
i   identity: what z means and under which policy, `Policy.identity`
k   kind: "label", "hits" (vectors were served) or "empty" (look-ups found nothing to serve); n: how many
p, z, s, v, h, q   of a label: pair, z, true similarity, version, whether it was a hit, probability of a check
"""

import secrets
import time
from typing import Any, Final

from cache.metrics import SEMANTIC_QUEUE_DROPPED
from cache.semantic.certifier import Label

MAX_COUNT: Final = 100_000
MAX_EVENTS_WAITING: Final = 20_000
MAX_ORIGINS: Final = 64

Event = dict[str, Any]


def count_event(identity: str, kind: str, count: int) -> Event:
    """So many hits, or so many look-ups that found nothing."""
    return {"i": identity, "k": kind, "n": count}


def label_event(identity: str, label: Label) -> Event:
    """One comparison."""
    event: Event = {"i": identity, "k": "label", "p": label.pair, "z": round(label.z, 6)}
    event |= {"s": round(label.similarity, 6), "v": label.version, "h": label.was_hit, "q": label.probability}
    return event


def count_of(event: Event) -> int:
    """How many look-ups or hits an event stands for. Raises KeyError, TypeError, ValueError or OverflowError."""
    return max(0, min(int(event["n"]), MAX_COUNT))


def label_of(event: Event) -> Label:
    """The label in an event. Raises KeyError, TypeError or ValueError where there is none."""
    label = Label(
        pair=int(event["p"]),
        z=float(event["z"]),
        similarity=float(event["s"]),
        version=int(event["v"]),
        was_hit=bool(event["h"]),
        probability=float(event["q"]),
    )
    if not 0 < label.probability <= 1:
        raise ValueError("no probability")
    return label


class Counted:
    """Which events are in a state already, by the last number of each origin: none counts twice, whoever repeats it.

    Of more than `MAX_ORIGINS` the one whose last number is lowest is left out; from then on nothing numbered up to
    there counts. Numbers follow the clock, so what an origin sends later still does.
    """

    def __init__(self, last: dict[str, int] | None = None, floor: int = 0) -> None:
        self._last = last or {}
        self._floor = floor

    def is_new(self, event: Event) -> bool:
        """Whether this event counts now; if so it is counted from now on. False also for one without a number."""
        origin, number = event.get("o"), event.get("t")
        if not isinstance(origin, str) or not isinstance(number, int):
            return False
        if number <= self._last.get(origin, self._floor):
            return False
        self._last[origin] = number
        if len(self._last) > MAX_ORIGINS:
            oldest = min(self._last, key=self._last.__getitem__)
            self._floor = max(self._floor, self._last.pop(oldest))
        return True

    def to_state(self) -> dict[str, Any]:
        """A JSON object that `from_state` reads."""
        return {"last": self._last, "floor": self._floor}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Counted":
        """What `to_state` wrote. Raises KeyError, TypeError, ValueError or AttributeError on anything else."""
        return cls({str(origin): int(number) for origin, number in state["last"].items()}, int(state["floor"]))


class Outbox:
    """Events of one gateway that wait for the next exchange, and whether one of its violations is still uncounted."""

    def __init__(self) -> None:
        self.waiting: list[Event] = []
        self._origin = secrets.token_hex(6)
        self._number = 0
        self._sent = 0
        self._awaited: int | None = None  # number of the own event that reports a violation, until it is sent
        self._awaited_id: str | None = None  # and from then on its id in the stream

    @property
    def is_uncounted(self) -> bool:
        """Whether a violation was reported here that the shared state does not hold yet."""
        return self._awaited is not None or self._awaited_id is not None

    def add(self, event: Event, must_fit: bool = False) -> None:
        """Have an event sent at the next exchange; while Redis takes none, only so many wait."""
        if len(self.waiting) < MAX_EVENTS_WAITING or must_fit:
            self._number = max(self._number + 1, time.time_ns() // 1000)
            self.waiting.append(event | {"o": self._origin, "t": self._number})
        else:
            SEMANTIC_QUEUE_DROPPED.inc()

    def await_last(self) -> None:
        """The event added last reports a violation: `is_uncounted` until the shared state holds it."""
        self._awaited = self._sent + len(self.waiting)

    def await_nothing(self) -> None:
        """What was reported no longer matters."""
        self._awaited = self._awaited_id = None

    def sent(self, count: int, last_id: str) -> None:
        """The first `count` events are in the stream, the last of them under this id."""
        del self.waiting[:count]
        self._sent += count
        if self._awaited is not None and self._sent >= self._awaited:
            self._awaited, self._awaited_id = None, last_id

    def counted(self, last_event: str) -> None:
        """The shared state holds all events up to this id."""
        if self._awaited_id and _order(last_event) >= _order(self._awaited_id):
            self._awaited_id = None


def _order(event_id: str) -> tuple[int, int]:
    """Stream ids in their order."""
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)
