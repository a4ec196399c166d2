"""Which cache tier served what, read from reply headers. Knows nothing of how a tier works.

x-cache         local | exact | semantic | miss | mixed, for the whole request
x-cache-items   "local*3,miss,exact*2": runs of equal tiers in the inputs' order, a count of 1 left out
"""

from collections.abc import Mapping

CACHE_HEADER = "x-cache"
ITEMS_HEADER = "x-cache-items"

HITS = ("local", "exact", "semantic")
MISS = "miss"
MIXED = "mixed"
UNSTATED = "unstated"  # a server without these headers, or a mixed request with too many runs to list


class TierError(ValueError):
    """Headers that contradict themselves or the request; the message quotes them."""


def request_tier(headers: Mapping[str, str]) -> str:
    """The tier named for the whole request, UNSTATED when there is none."""
    return headers.get(CACHE_HEADER, "").strip().lower() or UNSTATED


def item_tiers(headers: Mapping[str, str], count: int) -> list[str]:
    """The tier of each of `count` inputs, by position. Raises TierError."""
    runs = headers.get(ITEMS_HEADER, "")
    if runs:
        tiers = parse_runs(runs)
        if len(tiers) != count:
            raise TierError(f"{ITEMS_HEADER}: {runs!r} names {len(tiers)} inputs, the request had {count}")
        return tiers
    whole = request_tier(headers)
    return [UNSTATED if whole == MIXED else whole] * count


def parse_runs(value: str) -> list[str]:
    """Expand "local*3,miss" into its tiers. Raises TierError."""
    tiers: list[str] = []
    for run in value.split(","):
        tier, star, length = run.strip().partition("*")
        count = int(length) if length.isascii() and length.isdecimal() else 0
        if not tier or (star and count < 1):
            raise TierError(f"{ITEMS_HEADER}: {value!r} is not a list of tier*count")
        tiers += [tier.lower()] * (count if star else 1)
    return tiers
