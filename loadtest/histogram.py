"""A latency histogram with the buckets of HdrHistogram: bounded memory, and three significant digits from 1 us to 1 h.

    histogram = Histogram()
    histogram.add(0.0123)
    histogram.percentile(99)   # seconds; at most 0.1 % above the latency that was measured
    text = histogram.encode()  # HdrHistogram's own compressed form (V2), which its tools read

The layout and the form are those of http://hdrhistogram.org: see docs/decisions/hdr-buckets-of-our-own.md for why they
stand here. Tests compare both with the `hdrhistogram` library.
"""

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

DIGITS = 3
HALF_BITS = 10  # 1,024 steps in each power of two: 0.1 %
HALF = 1 << HALF_BITS
UNIT_S = 1e-6
HIGHEST = 3_600_000_000  # microseconds: one hour; what is longer counts as this
BUCKETS = (HIGHEST >> (HALF_BITS + 1)).bit_length() + 1
LENGTH = (BUCKETS + 1) * HALF
ENCODED, COMPRESSED = 0x1C849313, 0x1C849314  # V2, with counts as LEB128
HEADER = struct.Struct(">iiiiqqd")
MAX_ENCODED_BYTES = 1 << 20
SHOWN = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0)


class HistogramError(ValueError):
    """A text that is no histogram of this layout."""


class Histogram:
    """Counts of latencies; `count`, and the exact `max_s`."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(LENGTH, np.int64)
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count a latency; one below a microsecond counts as none, one above an hour as an hour."""
        value = min(max(round(seconds / UNIT_S), 0), HIGHEST)
        self._counts[_place(value)] += times
        self.count += times
        self.max_s = max(self.max_s, min(seconds, HIGHEST * UNIT_S))

    def merge(self, other: "Histogram") -> None:
        """Add what the other has counted."""
        self._counts += other._counts
        self.count += other.count
        self.max_s = max(self.max_s, other.max_s)

    def percentile(self, percent: float) -> float:
        """Seconds that at least `percent` % of the latencies do not exceed (nearest rank), 0 when empty.

        The upper end of the bucket that holds that latency: never less than was measured, at most 0.1 % more.
        """
        if not self.count:
            return 0.0
        rank = max(math.ceil(percent / 100 * self.count - 1e-9), 1)
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        return min(_value(place + 1) - 1, self.max_s / UNIT_S) * UNIT_S

    def shares_below(self) -> Iterator[tuple[float, float]]:
        """Percentile and latency in seconds at the points of a percentile plot."""
        for percent in SHOWN:
            if percent in (0.0, 100.0) or self.count * (1 - percent / 100) >= 1 - 1e-9:  # else it is the maximum
                yield percent, self.percentile(percent)

    def encode(self) -> str:
        """HdrHistogram's V2 form, compressed, in base64."""
        used = int(np.flatnonzero(self._counts)[-1]) + 1 if self.count else 0
        body = bytearray()
        zeros = 0
        for count in self._counts[:used].tolist():
            if not count:
                zeros += 1
                continue
            if zeros:
                _leb128(-zeros, body)
                zeros = 0
            _leb128(count, body)
        plain = HEADER.pack(ENCODED, len(body), 0, DIGITS, 1, HIGHEST, 1.0) + body
        packed = zlib.compress(plain)
        return base64.b64encode(struct.pack(">ii", COMPRESSED, len(packed)) + packed).decode()

    @classmethod
    def decode(cls, text: str) -> "Histogram":
        """The histogram of `encode`; its maximum is that of its last bucket. Raises HistogramError."""
        histogram = cls()
        try:
            packed = base64.b64decode(text, validate=True)
            cookie, length = struct.unpack_from(">ii", packed)
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(packed[8 : 8 + length], MAX_ENCODED_BYTES)
            inner, size, _, digits, lowest, highest, _ = HEADER.unpack_from(plain)
            if (cookie, inner, digits, lowest, highest) != (COMPRESSED, ENCODED, DIGITS, 1, HIGHEST):
                raise HistogramError("a histogram of another layout")
            place = 0
            for count in _leb128_values(plain[HEADER.size : HEADER.size + size]):
                if count < 0:
                    place -= count
                else:
                    histogram._counts[place] = count
                    place += 1
        except (binascii.Error, struct.error, zlib.error, IndexError) as error:
            raise HistogramError(f"no histogram: {error}") from None
        histogram.count = int(histogram._counts.sum())
        if histogram.count:
            last = int(np.flatnonzero(histogram._counts)[-1])
            histogram.max_s = (_value(last + 1) - 1) * UNIT_S
        return histogram


def _place(value: int) -> int:
    bucket = max(value.bit_length() - (HALF_BITS + 1), 0)
    return ((bucket + 1) << HALF_BITS) + (value >> bucket) - HALF


def _value(place: int) -> int:
    """The least value of a bucket."""
    bucket = max((place >> HALF_BITS) - 1, 0)
    return (place - (bucket << HALF_BITS)) << bucket


def _leb128(number: int, into: bytearray) -> None:
    """ZigZag LEB128 of at most nine bytes, the last of which has eight bits."""
    rest = (number << 1) ^ (number >> 63)
    for _ in range(8):
        if rest < 0x80:
            break
        into.append(rest & 0x7F | 0x80)
        rest >>= 7
    into.append(rest & 0xFF)


def _leb128_values(content: bytes) -> Iterator[int]:
    at = 0
    while at < len(content):
        number, shift = 0, 0
        while True:
            byte = content[at]
            at += 1
            number |= (byte if shift == 56 else byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 56:
                break
        yield (number >> 1) ^ -(number & 1)
