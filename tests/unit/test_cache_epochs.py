"""A gateway's own epochs, by which it goes while Redis has not told any: a purge that it knows of ends them too."""

from typing import cast

import pytest

from cache.epochs import Epochs
from cache.keys import ALL_NAMESPACES
from cache.redis_link import RedisAway, RedisLink

SECRET = b"s" * 32


class Cluster:
    """Keeps epochs as Redis would, while it is reached."""

    def __init__(self) -> None:
        self.is_cluster, self.is_away = True, False
        self.epochs: dict[bytes, bytes] = {}

    async def on_each(self, keys: list[bytes], together: object, apart: object) -> list[bytes]:
        if self.is_away:
            raise RedisAway("away")
        for place, key in enumerate(keys):
            offer = apart(place)[5]  # type: ignore[operator]
            self.epochs[key] = max(self.epochs.get(key, b""), offer.encode())
        return [self.epochs[key] for key in keys]

    async def call(self, command: object, timeout_s: float = 0, key: bytes = b"") -> object:
        return 1


@pytest.mark.parametrize("purged", ["one", ALL_NAMESPACES])
async def test_what_was_kept_while_redis_told_nothing_is_purged_too(
    purged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away for long, back, tells of another gateway's purge, and is away again: nothing of before is found."""
    now, redis = 0.0, Cluster()
    monkeypatch.setattr("cache.epochs.time.monotonic", lambda: now)
    epochs, other = (Epochs(cast(RedisLink, redis), SECRET) for _ in range(2))
    assert await epochs.ensure("one") is not None
    now, redis.is_away = 40.0, True
    assert await epochs.ensure("one") is None
    before = epochs.private()
    redis.is_away = False
    await other.ensure("one")
    name = b"dv1:epoch:" + purged.encode()
    redis.epochs[name] = other._sealed(purged, "9" * 15 + "-" + "0" * 16).encode()
    assert await epochs.ensure("one") is not None
    now, redis.is_away = 80.0, True
    assert await epochs.ensure("one") is None
    assert epochs.private() != before
