"""L0: its bound, its order of eviction, its expiry."""

from cache.local import ENTRY_OVERHEAD_BYTES, REPLY_OVERHEAD_BYTES, REPLY_SHARE, LocalCache, LocalEntry, LocalReply


def entry(size: int = 100) -> LocalEntry:
    return LocalEntry(b"v" * size, tokens=3, truncated=False)


def test_entries_expire() -> None:
    """An entry is gone at its time to live, and its room is free again."""
    now = [0.0]
    cache = LocalCache(10_000, ttl_s=5, clock=lambda: now[0])
    cache.put(b"k", entry())
    cache.put(b"short", entry(), ttl_s=1)
    now[0] = 1.0
    assert cache.get(b"short") is None
    assert cache.get(b"k") == entry()
    now[0] = 5.0
    assert cache.get(b"k") is None
    assert cache.used_bytes == 0


def test_least_recently_used_goes_first() -> None:
    """The bound holds in bytes, and a look-up keeps an entry alive."""
    cache = LocalCache(3 * (100 + ENTRY_OVERHEAD_BYTES), ttl_s=60)
    for key in (b"a", b"b", b"c"):
        cache.put(key, entry())
    assert cache.get(b"a") is not None
    cache.put(b"d", entry())
    assert cache.get(b"b") is None
    assert [cache.get(key) is not None for key in (b"a", b"c", b"d")] == [True] * 3
    assert cache.used_bytes == 3 * (100 + ENTRY_OVERHEAD_BYTES)


def test_replacing_an_entry_does_not_count_it_twice() -> None:
    """Putting the same key again leaves one entry's bytes."""
    cache = LocalCache(10_000, ttl_s=60)
    cache.put(b"a", entry(100))
    cache.put(b"a", entry(200))
    assert cache.used_bytes == 200 + ENTRY_OVERHEAD_BYTES
    assert len(cache) == 1


def test_zero_bytes_switch_it_off() -> None:
    """Without room nothing is kept and nothing fails."""
    cache = LocalCache(0, ttl_s=60)
    cache.put(b"a", entry())
    assert not cache.enabled
    assert cache.get(b"a") is None


def reply(request: bytes = b"r", size: int = 100) -> LocalReply:
    return LocalReply(request, b"b" * size, about=None)


def replying(cache: LocalCache, request: bytes = b"r") -> LocalReply | None:
    found = cache.get_by_request(request)
    return None if found is None else found.reply


def test_a_reply_lives_as_long_as_its_entry() -> None:
    """It expires with the entry, whenever it was kept, and both give their room back."""
    now = [0.0]
    cache = LocalCache(100_000, ttl_s=5, clock=lambda: now[0])
    cache.put(b"k", entry())
    now[0] = 4.0
    cache.keep_reply(b"k", reply())
    assert replying(cache) == reply()
    assert cache.used_bytes == 100 + ENTRY_OVERHEAD_BYTES + 100 + REPLY_OVERHEAD_BYTES
    now[0] = 5.0
    assert replying(cache) is None
    assert cache.used_bytes == 0
    cache.keep_reply(b"k", reply())
    assert replying(cache) is None, "there is no entry that it could belong to"


def test_a_reply_goes_when_its_entry_is_replaced() -> None:
    """A text that was computed anew has no older reply."""
    cache = LocalCache(100_000, ttl_s=60)
    cache.put(b"k", entry())
    cache.keep_reply(b"k", reply())
    cache.put(b"k", entry(200))
    assert replying(cache) is None
    assert cache.used_bytes == 200 + ENTRY_OVERHEAD_BYTES


def test_an_entry_has_one_reply() -> None:
    """The last one that was kept."""
    cache = LocalCache(100_000, ttl_s=60)
    cache.put(b"k", entry())
    cache.keep_reply(b"k", reply(b"one"))
    cache.keep_reply(b"k", reply(b"two", 300))
    assert replying(cache, b"one") is None
    assert replying(cache, b"two") == reply(b"two", 300)
    assert cache.used_bytes == 100 + ENTRY_OVERHEAD_BYTES + 300 + REPLY_OVERHEAD_BYTES


def test_a_request_has_one_reply() -> None:
    """Its entry is another one when its model has changed; the earlier entry then has none, and may go."""
    cache = LocalCache(100_000, ttl_s=60)
    for digest in (b"before", b"now"):
        cache.put(digest, entry())
        cache.keep_reply(digest, reply())
    assert cache.get(b"before").reply is None  # type: ignore[union-attr]
    cache.put(b"before", entry())
    assert replying(cache) is cache.get(b"now").reply is not None  # type: ignore[union-attr]
    cache.put(b"now", entry())
    assert replying(cache) is None
    assert cache.used_bytes == 2 * (100 + ENTRY_OVERHEAD_BYTES)


def test_replies_take_their_share_of_the_bytes_at_most() -> None:
    """Whatever is kept, all bytes are within the bound, replies within their part of it, and vectors stay."""
    most = 40 * (100 + ENTRY_OVERHEAD_BYTES)
    cache = LocalCache(most, ttl_s=60)
    digests = [b"%d" % number for number in range(60)]
    for digest in digests:
        cache.put(digest, entry())
        cache.keep_reply(digest, reply(digest))
        assert cache.used_bytes <= most
    kept = [digest for digest in digests if replying(cache, digest) is not None]
    assert 0 < len(kept) * reply().size <= most // REPLY_SHARE
    assert len(cache) * (100 + ENTRY_OVERHEAD_BYTES) >= most - most // REPLY_SHARE - (100 + ENTRY_OVERHEAD_BYTES)
