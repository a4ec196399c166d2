"""Seals: only what was sealed under this secret, kind and name opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.authentication import SEAL_BYTES, VERSION, Seal
from cache.metrics import REFUSED

SEAL = Seal(b"s" * 32, "exact")
NAME, CONTENT = b"name", b"content"
SEALED = SEAL.seal(NAME, CONTENT)


def refused(reason: str) -> float:
    return float(REFUSED.labels("exact", reason)._value.get())


@given(st.binary(max_size=40), st.binary(max_size=200))
def test_what_was_sealed_opens(name: bytes, content: bytes) -> None:
    """Whatever name and content are."""
    assert SEAL.open(name, SEAL.seal(name, content)) == content


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_refused_and_counted(position: int, change: int) -> None:
    """Version, MAC or content."""
    changed = bytearray(SEALED)
    changed[position % len(changed)] ^= change
    before = refused("mac") + refused("format")
    assert SEAL.open(NAME, bytes(changed)) is None
    assert refused("mac") + refused("format") == before + 1


@pytest.mark.parametrize(
    "other", [Seal(b"t" * 32, "exact"), Seal(b"s" * 32, "state"), Seal(b"s" * 16, "exact"), Seal(b"s" * 64, "exact")]
)
def test_another_secret_or_kind_does_not_open_it(other: Seal) -> None:
    """A state is no vector, whoever puts it in a vector's place."""
    assert other.open(NAME, SEALED) is None


def test_another_name_does_not_open_it() -> None:
    """Nor one that takes a byte from the content, or gives it one."""
    assert SEAL.open(b"eman", SEALED) is None
    assert SEAL.open(b"namec", SEALED[:SEAL_BYTES] + b"ontent") is None
    assert SEAL.open(b"nam", SEALED[:SEAL_BYTES] + b"econtent") is None


@pytest.mark.parametrize(
    "value", [b"", VERSION, SEALED[: SEAL_BYTES - 1], b"\x01f" + bytes(40), b'{"live": {}}', 5, [SEALED], 1.5]
)
def test_what_was_never_sealed_is_of_another_format(value: object) -> None:
    """Too short, of a version before, or no string at all: the reply to another command."""
    before = refused("format")
    assert SEAL.open(NAME, value) is None
    assert refused("format") == before + 1
