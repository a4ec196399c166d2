"""What each API key has used: counted here with every answer, and written to Redis once a second.

    tenant.usage.count(tokens=12, tiers=["local", "miss"])      # in the request
    usage = Usage(store, limits)
    await usage.tick(tenants.changed_usage())                   # in the background, once a second
    await usage.of(tenant.usage)                                # {"2026-11-26": Counts(...), "2026-11": ...}

A kill loses what was counted since the last write, a second of it or, with more than `MAX_WRITTEN` busy keys in one
process, a few. While Redis is away the counts stay here, by day, and are written when it is back.
"""

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from operator import attrgetter

from cache.redis_link import RedisAway
from cache.usage import Counts, LocalUsage, UsageStore, period_of_day, period_of_month
from gateway.limits import Limits
from gateway.metrics import USAGE_UNWRITTEN

WRITE_S = 1.0
MAX_WRITTEN = 512  # keys in one round
WRITTEN_AT_ONCE = 8
MAX_DAYS = 8  # that one key keeps here while Redis is away
FRESH_S = 1.0  # so long what was read is shown again


class KeyUsage:
    """What one key has used in this process and is not yet in Redis."""

    __slots__ = ("_batch", "_days", "_now", "digest", "is_changed", "last", "seen", "seen_at")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self._now = Counts()
        self._days: OrderedDict[tuple[str, str], Counts] = OrderedDict()
        self._batch: tuple[int, dict[str, Counts]] | None = None  # sent, without an answer
        self.is_changed = False
        self.last = 0  # its last batch: of many keys those longest not written go first
        self.seen: dict[str, Counts] = {}  # what was read last
        self.seen_at = float("-inf")

    def count(self, tokens: int, tiers: Sequence[str]) -> None:
        """Count one answer: its tokens, and the tier of each of its texts."""
        now = self._now
        now.requests += 1
        now.tokens += tokens
        for tier in tiers if len(tiers) == 1 else set(tiers):
            setattr(now, tier, getattr(now, tier) + tiers.count(tier))
        self.is_changed = True

    def count_refusal(self) -> None:
        """Count a request that a limit has refused."""
        self._now.refused += 1
        self.is_changed = True

    def close_day(self, seconds: float) -> None:
        """Ascribe what was counted lately to the day of this time."""
        if self._now == Counts():
            return
        periods = (period_of_day(seconds), period_of_month(seconds))
        self._days.setdefault(periods, Counts()).add(self._now)
        self._now = Counts()
        while len(self._days) > MAX_DAYS:  # the two oldest become one
            _, oldest = self._days.popitem(last=False)
            next(iter(self._days.values())).add(oldest)

    def batch(self, numbers: "itertools.count[int]") -> tuple[int, dict[str, Counts]]:
        """What is to be written: the same again, until `written` was called."""
        if self._batch is None:
            counts: dict[str, Counts] = {}
            for periods, one in self._days.items():
                for period in periods:
                    counts.setdefault(period, Counts()).add(one)
            self._days.clear()
            self.last = next(numbers)
            self._batch = self.last, counts
        return self._batch

    def written(self) -> None:
        """The batch is in Redis."""
        self._batch = None
        self.is_changed = bool(self._days) or self._now != Counts()


class Usage:
    """Writes what keys have used, and reads it."""

    def __init__(self, store: UsageStore | LocalUsage, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()  # one writer: a batch may not be sent twice at the same time

    def now(self) -> float:
        """The time of day, in seconds since 1970."""
        return self._limits.now()

    async def write(self, changed: Sequence[KeyUsage]) -> None:
        """Write what these have used, a few at a time. Raises RedisAway; what was not written stays."""
        async with self._lock:
            now = self._limits.now()
            for one in changed:
                one.close_day(now)
            waiting = iter(sorted(changed, key=attrgetter("last"))[:MAX_WRITTEN])

            async def some() -> None:
                for one in waiting:
                    number, counts = one.batch(self._numbers)
                    if counts:
                        await self._store.record(self._limits.key_id(one.digest), number, counts)
                    one.written()

            done = await asyncio.gather(*(some() for _ in range(WRITTEN_AT_ONCE)), return_exceptions=True)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def of(self, key: KeyUsage) -> dict[str, Counts]:
        """All that is kept of one key, as of the last second. Raises RedisAway."""
        if self._limits.clock() - key.seen_at > FRESH_S:
            if key.is_changed:
                await self.write([key])
            key.seen = await self._store.read(self._limits.key_id(key.digest))
            key.seen_at = self._limits.clock()
        return key.seen

    async def tick(self, changed: Sequence[KeyUsage]) -> None:
        """One round: say that this process is there, and write."""
        try:
            self._limits.heard_of(await self._store.present())
            await self.write(changed)
        except RedisAway:
            pass
        USAGE_UNWRITTEN.set(sum(one.is_changed for one in changed))
