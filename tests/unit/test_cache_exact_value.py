"""What is stored in Redis: written and read back exactly, and refused when it is anything else."""

import asyncio
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.authentication import Seal
from cache.exact import ExactTier, as_stored, decode_value, encode_value
from cache.metrics import WRITE_DROPPED

SEAL = Seal(b"s" * 32, "exact")
DIGEST = bytes(range(16))
VECTOR = np.random.default_rng(1).standard_normal(12).astype("<f4")
UNIT = (VECTOR / np.linalg.norm(VECTOR)).astype("<f4").tobytes()


def test_float32_comes_back_bit_for_bit() -> None:
    """A stored vector is the vector."""
    assert decode_value(SEAL, DIGEST, encode_value(SEAL, DIGEST, UNIT, "float32"), 12) == UNIT


def test_float16_serves_the_same_bytes_on_miss_and_hit() -> None:
    """What a miss answers in float16 mode is what a later hit will read."""
    assert decode_value(SEAL, DIGEST, encode_value(SEAL, DIGEST, UNIT, "float16"), 12) == as_stored(UNIT, "float16")
    rounded = np.frombuffer(as_stored(UNIT, "float16"), dtype="<f4")
    assert abs(float(rounded @ np.frombuffer(UNIT, dtype="<f4")) - 1) < 1e-5


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_a_miss(position: int, change: int) -> None:
    """A value with one damaged byte is never decoded."""
    value = bytearray(encode_value(SEAL, DIGEST, UNIT, "float32"))
    value[position % len(value)] ^= change
    assert decode_value(SEAL, DIGEST, bytes(value), 12) is None


@given(st.binary(max_size=200))
def test_garbage_is_a_miss(value: bytes) -> None:
    """Arbitrary bytes under one of our keys are never decoded."""
    assert decode_value(SEAL, DIGEST, value, 12) is None


def test_a_value_under_another_key_or_of_another_size_is_a_miss() -> None:
    """A value copied to another key, or from a model of another size, is not served."""
    value = encode_value(SEAL, DIGEST, UNIT, "float32")
    assert decode_value(SEAL, bytes(16), value, 12) is None
    assert decode_value(SEAL, DIGEST, value, 13) is None
    assert decode_value(SEAL, DIGEST, value[:-4], 11) is None


def test_a_value_with_a_checksum_is_a_miss() -> None:
    """What was stored before values were sealed; anyone can make a checksum."""
    head = struct.pack("<BBI", 1, ord("f"), zlib.crc32(UNIT, zlib.crc32(DIGEST)))
    assert decode_value(SEAL, DIGEST, head + UNIT, 12) is None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e6])
async def test_numbers_that_are_not_finite_are_never_sealed(number: float) -> None:
    """Nor those that float16 cannot hold; the vectors beside them are written."""
    vector = np.frombuffer(UNIT, dtype="<f4").copy()
    vector[3] = number
    written: list[int] = []

    class Link:
        write_timeout_s = 1.0

        async def on_each(self, keys: list[bytes], together: object, apart: object, timeout_s: float) -> Any:
            written.append(len(keys))
            return [True] * len(keys)

    tier = ExactTier(Link(), b"s" * 32, 60, 0, "float16")  # type: ignore[arg-type]
    before = WRITE_DROPPED.labels("not_finite")._value.get()
    tier.put_many([(DIGEST, UNIT), (DIGEST, vector.tobytes())])
    writing = asyncio.create_task(tier.run_writer())
    await tier.flush(5)
    writing.cancel()
    assert written == [1]
    assert WRITE_DROPPED.labels("not_finite")._value.get() == before + 1
