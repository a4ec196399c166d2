"""L0: a bounded in-process cache of served vectors. Knows nothing of texts or Redis: bytes in, bytes out."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ENTRY_OVERHEAD_BYTES: Final = 400  # measured: dict slot, key, entry and expiry objects beside the vector


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """One vector as it was served: float32 bytes, its token count, and whether its text was truncated."""

    vector: bytes
    tokens: int
    truncated: bool


class LocalCache:
    """Least recently used out first, bounded in bytes, entries dead after `ttl_s`. Zero bytes switch it off."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, LocalEntry]] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept at all."""
        return self._max_bytes > 0

    def get(self, digest: bytes) -> LocalEntry | None:
        """The entry under this digest, or None when there is none that is still alive."""
        found = self._entries.get(digest)
        if found is None:
            return None
        expires_at, entry = found
        if expires_at <= self._clock():
            self._remove(digest)
            return None
        self._entries.move_to_end(digest)
        return entry

    def put(self, digest: bytes, entry: LocalEntry, ttl_s: float | None = None) -> None:
        """Keep an entry; the least recently used ones make room. A life shorter than this cache's may be given."""
        if digest in self._entries:
            self._remove(digest)
        size = len(entry.vector) + ENTRY_OVERHEAD_BYTES
        if size > self._max_bytes:
            return
        life_s = self._ttl_s if ttl_s is None else min(ttl_s, self._ttl_s)
        self._entries[digest] = (self._clock() + life_s, entry)
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, digest: bytes) -> None:
        _, entry = self._entries.pop(digest)
        self.used_bytes -= len(entry.vector) + ENTRY_OVERHEAD_BYTES
