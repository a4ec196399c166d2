"""Which cache tier served what, read from reply headers.

x-cache         local | exact | semantic | miss | mixed, for the whole request
x-cache-items   "local*3,miss,exact*2": runs of equal tiers in the inputs' order, a count of 1 left out
"""

from collections.abc import Mapping

from common.reply_parsing import tier_runs

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
        return _expanded(runs, count)
    whole = request_tier(headers)
    return [UNSTATED if whole == MIXED else whole] * count


def _expanded(value: str, count: int) -> list[str]:
    """Expand "local*3,miss" into its tiers. Raises TierError."""
    runs = tier_runs(value)
    if runs is None:
        raise TierError(f"{ITEMS_HEADER}: {value!r} is not a list of tier*count")
    named = sum(times for _, times in runs)
    if named != count:
        raise TierError(f"{ITEMS_HEADER}: {value!r} names {named} inputs, the request had {count}")
    return [tier.lower() for tier, times in runs for _ in range(times)]
