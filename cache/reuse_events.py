"""What gateways tell each other of a scope: its labels and counts as small JSON objects, written and read here.

i   identity: what z means and what was promised, `Promise.identity`
k   kind: "label", "hits" (vectors were served) or "empty" (look-ups found nothing to serve); n: how many
p, z, s, v, h, q   of a label: pair, z, true similarity, version, whether it was a hit, probability of a check
"""

from typing import Any, Final

from cache.reuse import Label

MAX_COUNT: Final = 100_000

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
