"""Reading which tier served what from reply headers."""

import pytest

from loadtest.tiers import UNSTATED, TierError, item_tiers, request_tier


@pytest.mark.parametrize(
    ("runs", "tiers"),
    [
        ("local", ["local"]),
        ("local*3,miss*1", ["local", "local", "local", "miss"]),
        ("exact, semantic*2", ["exact", "semantic", "semantic"]),
        ("MISS*2", ["miss", "miss"]),
    ],
)
def test_runs_expand_in_order(runs: str, tiers: list[str]) -> None:
    """Each run stands for as many inputs as its count says, one without a count for one."""
    assert item_tiers({"x-cache-items": runs}, len(tiers)) == tiers


@pytest.mark.parametrize("runs", ["*3", "local*", "local*0", "local*-1", "local*x", "local,,miss", "local*²"])
def test_broken_runs_are_refused(runs: str) -> None:
    """What is not a list of tier*count is an error, not a guess."""
    with pytest.raises(TierError):
        item_tiers({"x-cache-items": runs}, 1)


def test_items_follow_the_item_header() -> None:
    """Per-item tiers come from x-cache-items where it is given."""
    headers = {"x-cache": "mixed", "x-cache-items": "exact,miss*2"}
    assert item_tiers(headers, 3) == ["exact", "miss", "miss"]


def test_items_of_an_unmixed_request() -> None:
    """Without the item header all inputs have the request's tier."""
    assert item_tiers({"x-cache": "local"}, 2) == ["local", "local"]


def test_mixed_without_items_is_unstated() -> None:
    """A mixed request with too many runs to list tells nothing of its items."""
    assert item_tiers({"x-cache": "mixed"}, 2) == [UNSTATED, UNSTATED]


def test_servers_without_the_headers() -> None:
    """A server that is not a gateway states no tier."""
    assert request_tier({}) == UNSTATED
    assert item_tiers({}, 1) == [UNSTATED]


def test_runs_must_add_up() -> None:
    """An item header that names more or fewer inputs than were sent is an error."""
    with pytest.raises(TierError, match="names 2 inputs, the request had 3"):
        item_tiers({"x-cache-items": "local*2"}, 3)
