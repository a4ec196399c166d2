"""L0: a bounded in-process cache of served vectors. Knows nothing of texts or Redis: bytes in, bytes out.

    cache.put(digest, LocalEntry(vector, tokens, truncated))
    cache.get(digest)
    cache.keep_reply(digest, LocalReply(request, body, about))  # the whole reply to a request for this text alone
    cache.get_by_request(request)                               # the entry with that reply

A reply is part of its entry: it is found only while the entry would be, and goes when that goes or is replaced.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

ENTRY_OVERHEAD_BYTES: Final = 400  # measured: dict slot, key, entry and expiry objects beside the vector
REPLY_OVERHEAD_BYTES: Final = 1_200  # measured: what `about` holds, headers among it, beside the body
REPLY_SHARE: Final = 4  # replies take at most this part of the bytes, so that there is room for vectors


@dataclass(frozen=True, slots=True)
class LocalReply:
    """A reply and the 16 bytes that name its request; `about`: what its owner has to know of it, a few small things."""

    request: bytes
    body: bytes
    about: object

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.body) + REPLY_OVERHEAD_BYTES


@dataclass(slots=True)
class LocalEntry:
    """One vector as it was served: float32 bytes, its token count, whether its text was cut; at most one reply."""

    vector: bytes
    tokens: int
    truncated: bool
    reply: LocalReply | None = field(default=None, compare=False)  # the cache's to set


class LocalCache:
    """Least recently used out first, bounded in bytes, entries dead after `ttl_s`. Zero bytes switch it off."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, LocalEntry]] = OrderedDict()
        self._requests: dict[bytes, bytes] = {}  # the digest of the entry that has its reply
        self._reply_bytes = 0
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
        self._make_room()

    def get_by_request(self, request: bytes) -> LocalEntry | None:
        """The entry that has the reply to this request, or None when there is none that is still alive."""
        digest = self._requests.get(request)
        return None if digest is None else self.get(digest)

    def keep_reply(self, digest: bytes, reply: LocalReply) -> None:
        """Keep a reply with the entry it was made of, in place of another; not where replies have their share."""
        entry = self.get(digest)
        if entry is None:
            return
        self._drop_reply(entry)
        earlier = self._requests.get(reply.request)
        if earlier is not None:  # the same request meant another text's entry then: its model has changed
            self._drop_reply(self._entries[earlier][1])
        if self._reply_bytes + reply.size > self._max_bytes // REPLY_SHARE:
            return
        entry.reply = reply
        self._requests[reply.request] = digest
        self._reply_bytes += reply.size
        self.used_bytes += reply.size
        self._make_room()

    def _make_room(self) -> None:
        while self.used_bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, digest: bytes) -> None:
        _, entry = self._entries.pop(digest)
        self._drop_reply(entry)
        self.used_bytes -= len(entry.vector) + ENTRY_OVERHEAD_BYTES

    def _drop_reply(self, entry: LocalEntry) -> None:
        reply, entry.reply = entry.reply, None
        if reply is not None:
            del self._requests[reply.request]
            self._reply_bytes -= reply.size
            self.used_bytes -= reply.size
