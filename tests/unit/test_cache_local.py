"""L0: its bound, its order of eviction, its expiry."""

from cache.local import ENTRY_OVERHEAD_BYTES, LocalCache, LocalEntry


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
