"""Where a request may hold its API key."""

import pytest

from gateway.errors import Unauthorized
from gateway.presented_key import one_key, presented_key


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer k1"}, "k1"),
        ({b"authorization": b"bearer k1 "}, "k1"),
        ({b"api-key": b"k1"}, "k1"),
        ({b"x-api-key": b" k1 "}, "k1"),
        ({b"api-key": b"k1", b"x-api-key": b"k1"}, "k1"),
        ({b"authorization": b"Bearer k1", b"api-key": b"k1", b"x-api-key": b"k1"}, "k1"),
        ({b"authorization": b"Basic dTpw", b"api-key": b"k1"}, "k1"),
        ({b"authorization": b"Bearer k1", b"api-key": b"", b"x-api-key": b" "}, "k1"),
        ({b"authorization": b"Bearer ", b"x-api-key": b"k1"}, "k1"),
        ({b"authorization": b"Basic dTpw"}, None),
        ({b"api-key": b""}, None),
        ({b"authorization": b"Bearer \xff\xfe", b"api-key": b"\xff\xfe"}, "ÿþ"),
    ],
)
def test_a_key_is_found_in_any_of_three_headers(headers: dict[bytes, bytes], key: str | None) -> None:
    """OpenAI's, Azure's, and the common one; empty headers and other schemes hold none."""
    assert presented_key(headers) == key


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({b"authorization": b"Bearer k1", b"api-key": b"k2"}, "Authorization and api-key"),
        ({b"authorization": b"Bearer k1", b"x-api-key": b"k"}, "Authorization and x-api-key"),
        ({b"api-key": b"k1", b"x-api-key": b"\xff"}, "api-key and x-api-key"),
        ({b"authorization": b"Bearer k1", b"api-key": b"k1", b"x-api-key": b"k2"}, "api-key and x-api-key"),
    ],
)
def test_different_keys_are_refused(headers: dict[bytes, bytes], named: str) -> None:
    """The message names the headers, and not the keys."""
    with pytest.raises(Unauthorized, match=f"{named} hold different") as refused:
        presented_key(headers)
    assert "k1" not in refused.value.message


@pytest.mark.parametrize("name", [b"api-key", b"x-api-key"])
def test_a_header_that_comes_twice_holds_one_key(name: bytes) -> None:
    """What stands in front of the gateway may have looked at the first, and the gateway at the last."""
    twice = [(name, b"k1"), (b"accept", b"a"), (name, b"k2")]
    with pytest.raises(Unauthorized, match="comes twice"):
        one_key(twice, dict(twice))
    assert one_key([(name, b"k1")] * 2, {name: b"k1"}) == "k1"
