"""What it costs to check a stored value: the figures of docs/decisions/stored-values-are-sealed.md.

python -m tests.measure_seals
"""

import hashlib
import hmac
import zlib
from timeit import repeat

from cache.authentication import Seal

SECRET, NAME, CONTENT = b"s" * 32, b"n" * 40, bytes(384 * 4)  # a vector of 384 float32
REPEATS, LOOPS = 30, 2000


def main() -> None:
    """Print the lowest time of each, in microseconds."""
    seal = Seal(SECRET, "exact")
    sealed = seal.seal(NAME, CONTENT)
    ways = {
        "open a sealed value": lambda: seal.open(NAME, sealed),
        "BLAKE2b, keyed, alone": lambda: hashlib.blake2b(CONTENT, key=SECRET, digest_size=16).digest(),
        "HMAC-SHA256 alone": lambda: hmac.digest(SECRET, CONTENT, "sha256"),
        "CRC-32 alone": lambda: zlib.crc32(CONTENT),
    }
    for name, way in ways.items():
        print(f"{name:24} {min(repeat(way, number=LOOPS, repeat=REPEATS)) / LOOPS * 1e6:5.1f} us")


if __name__ == "__main__":
    main()
