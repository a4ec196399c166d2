"""What gateways exchange about a partition: labels and counts as small JSON objects, and those that wait to be sent.

i   identity: what z means and under which policy, `Policy.identity`
k   kind: "label", "hits" (vectors were served) or "empty" (look-ups found nothing to serve); n: how many
p, z, s, v, h, q   of a label: pair, z, true similarity, version, whether it was a hit, probability of a check
"""

from typing import Any, Final

from cache.metrics import SEMANTIC_QUEUE_DROPPED
from cache.semantic.certifier import Label

MAX_COUNT: Final = 100_000
MAX_EVENTS_WAITING: Final = 20_000

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


class Outbox:
    """Events of one gateway that wait for the next exchange, and whether one of its violations is still uncounted."""

    def __init__(self) -> None:
        self.waiting: list[Event] = []
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
            self.waiting.append(event)
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
