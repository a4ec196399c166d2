"""Seals: what is read back from Redis is what a gateway with this key secret stored under that very name.

    sealed value = version (1 byte) | MAC (16 bytes) | content
    MAC          = BLAKE2b keyed with the key secret, personalised by the kind of value (RFC 7693, section 2.9),
                   over the name's length, the name, and the content

Someone who can write to Redis but has no key secret can take a value away, or put an older genuine one of the same
kind back under the same name; what that can do is bounded by who reads it. Everything else opens as None: it is
counted in `dejavec_cache_refused_total` and treated as if it were not there.
"""

import hashlib
import hmac
from typing import Final

from cache.metrics import REFUSED

VERSION: Final = b"\x02"  # 1, of before, was a checksum in its place
MAC_BYTES: Final = 16
SEAL_BYTES: Final = len(VERSION) + MAC_BYTES


class Seal:
    """Seals and opens values of one kind (at most 8 letters): "exact", "document", "state", ..."""

    __slots__ = ("_keyed", "kind")

    def __init__(self, secret: bytes, kind: str) -> None:
        self.kind = kind
        self._keyed = hashlib.blake2b(key=secret, digest_size=MAC_BYTES, person=b"dv-seal-" + kind.encode())

    def mac(self, name: bytes, *content: bytes) -> bytes:
        """16 bytes that only a holder of the secret can make for this name and content."""
        state = self._keyed.copy()
        state.update(len(name).to_bytes(4, "little") + name)
        for part in content:
            state.update(part)
        return state.digest()

    def fits(self, name: bytes, content: bytes, mac: bytes) -> bool:
        """Whether `mac` was made for this name and content; counted where not."""
        if hmac.compare_digest(self.mac(name, content), mac):
            return True
        self.refuse("mac")
        return False

    def seal(self, name: bytes, *content: bytes) -> bytes:
        """The stored form of `content`, in one or several parts, under `name`."""
        return b"".join((VERSION, self.mac(name, *content), *content))

    def open(self, name: bytes, sealed: object) -> bytes | None:
        """What was sealed under this name; None, and counted, for anything else: a reply may have any type."""
        if not isinstance(sealed, bytes) or len(sealed) < SEAL_BYTES or sealed[:1] != VERSION:
            self.refuse("format")
            return None
        content = sealed[SEAL_BYTES:]
        return content if self.fits(name, content, sealed[1:SEAL_BYTES]) else None

    def refuse(self, reason: str) -> None:
        """Count a value that is not gone by."""
        REFUSED.labels(self.kind, reason).inc()
