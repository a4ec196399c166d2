"""The limits of API keys, shared by all workers and gateways on one Redis.

    limits = Limits(workers=4)
    limits.connect(SharedLimits(link, process), secret)     # without: each process its share of everything
    limit = limits.limit(digest, "requests", "requests", per_minute=60, budgets=no_budgets)
    await limit.take(1)                                     # raises RateLimited, QuotaExceeded
    limit.give_back(1)
    await limits.run()                                      # in the background

A process takes what it needs from Redis (`cache.shared_limits`), and ahead of that at most what it has used in the last
second, at most a second's share of the minute: that it spends without asking, so that a busy key costs a round trip a
second and not one a request. A limit below 60 a minute is asked for each time. What has lain for a second goes back.
Of requests that come together one asks, for all. What Redis has refused is refused here for a quarter of a second.

Nobody waits for Redis longer than `redis_timeout_ms`, and once an outage: from then on the limit goes by this process's
share, of what was left when Redis was last heard of, and the background loop looks whether Redis is back. What was
spent meanwhile is then counted there.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from itertools import count

from cache.keys import key_id
from cache.redis_link import RedisAway
from cache.shared_limits import Answer, Ask, SharedLimits
from gateway.buckets import Budgets, LocalShare, used_up
from gateway.metrics import LIMIT_ASKS, LIMITS_LOCAL

log = logging.getLogger("dejavec.gateway")

AHEAD_S = 1.0  # so long what is taken ahead lasts, and lies before it goes back
FRESH_S = 0.25  # so long an answer of Redis is gone by
MAX_ASKS = 4  # of one request: others may take what was taken for it
SETTLED_AT_ONCE = 8


class Limit:
    """What one key may take of one thing: requests, or the tokens of a model."""

    def __init__(
        self, limits: "Limits", digest: bytes, what: str, unit: str, per_minute: int, budgets: Budgets
    ) -> None:
        self._limits = limits
        self._digest = digest
        self._what = what
        self._unit = unit
        self.per_minute = per_minute
        self.budgets = budgets
        self.held = 0  # taken from Redis, and not spent
        self._held_since = ""  # the day it was taken in
        self._local: LocalShare | None = None
        self._owed, self._spent = 0.0, 0  # spent while Redis was away: of the bucket, of the budgets
        self._seen: Answer | None = None
        self._asked_at = 0.0
        self._unsure: Ask | None = None  # sent, without an answer
        self._asking: asyncio.Task[None] | None = None
        self._waiting = 0  # what others want that wait for an ask on its way
        self._used, self._is_idle = 0, True  # since the last ask; since the last look of the background loop

    async def take(self, amount: int) -> None:
        """Take an amount. Raises RateLimited, QuotaExceeded when there is not so much."""
        for _ in range(MAX_ASKS):
            if amount <= self.held:
                self.held -= amount
                self._used += amount
                self._is_idle = False
                return
            self.check(amount)
            if self._local is not None:
                self._local.take(amount)
                return
            await self._ask_for(amount)
        raise used_up(self._unit, 1)

    def give_back(self, amount: int) -> None:
        """Put back what was taken and not used."""
        if self._local is not None:
            self._local.take(-amount)
        elif amount:
            self.held += amount
            self._limits.touch(self)

    def check(self, amount: int) -> None:
        """Raises RateLimited, QuotaExceeded where it is known without asking that there is less."""
        if self._local is None and self._limits.shared is None:
            self._go_local()
        if amount <= self.held:
            return
        if self._local is not None:
            self._local.check(amount)
        elif (level := self._level()) is not None:
            self.budgets.check(amount, self.held)
            short = min(amount, self.per_minute) - level - self.held
            if self.per_minute and short > 1e-6:
                raise used_up(self._unit, 60 * short / self.per_minute)

    async def left(self) -> int | None:
        """About how much may be taken now of a minute's allowance; None without one, or where it is not known.

        What is known of the budgets is then fresh as well.
        """
        if self._local is None and self._limits.shared is None:
            self._go_local()
        if self._local is None and self._level() is None:
            await self._ask_for(0)
        if self._local is not None:
            return self._local.left
        level = self._level()
        return None if level is None or not self.per_minute else max(0, math.floor(level) + self.held)

    async def settle(self) -> None:
        """Give back what lies idle, tell Redis what was spent without it, look whether it is back."""
        was_idle, self._is_idle = self._is_idle, True
        if self._limits.shared is None or self._asking is not None:
            return
        if self._local is not None:
            await self._ask_for(0)
        if self._owed or self._spent or self._unsure or (self.held and was_idle):
            await self._ask_for(0)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to give back or to find out."""
        return not (self.held or self._local or self._owed or self._spent or self._unsure)

    @property
    def is_local(self) -> bool:
        """Whether it goes by this process's share, though limits are shared."""
        return self._local is not None and self._limits.shared is not None

    def _level(self) -> float | None:
        """What the bucket in Redis holds, by an answer that is fresh; None without one."""
        age_s = self._limits.clock() - self._asked_at
        if self._seen is None or age_s > FRESH_S:
            return None
        return min(self.per_minute, self._seen.level + age_s * self.per_minute / 60)

    async def _ask_for(self, amount: int) -> None:
        """Have Redis asked: for this amount, or, where an ask is on its way, wait for that."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(amount, self._waiting))
            await asyncio.shield(self._asking)
            return
        self._waiting += amount  # until it is this one's turn; the next ask takes it along
        try:
            await asyncio.shield(self._asking)
        finally:
            self._waiting -= amount

    async def _ask(self, amount: int, waiting: int) -> None:
        """One ask. Never raises but for its own cancellation, so that nobody waits for ever."""
        shared = self._limits.shared
        assert shared is not None
        LIMIT_ASKS.inc()
        try:
            ask = self._unsure = self._unsure or self._next(amount, waiting)
            answer = await shared.ask(ask)
            self._unsure = None
            self._learn(ask, answer)
        except RedisAway:
            self._go_local()
        except Exception:
            log.exception("a limit could not be asked for")
            self._go_local()
        finally:
            self._asking = None

    def _next(self, amount: int, waiting: int) -> Ask:
        """An ask for what is missing to `amount`. 0, or more than a minute's, gives back what is held."""
        day, month = self.budgets.counts()
        back = self.held if amount == 0 or amount > self.per_minute > 0 else 0
        need = amount - (self.held - back)
        self.held -= back
        ask = Ask(
            number=next(self._limits.numbers),
            key_id=self._limits.key_id(self._digest),
            what=self._what,
            capacity=self.per_minute,
            need=max(0, need),
            waiting=waiting,
            ahead=self._ahead() if amount else 0,
            back=back - self._owed,
            returned=(back if self._held_since == day.field else 0) - self._spent,
            day=day,
            month=month,
        )
        self._owed, self._spent = 0.0, 0
        return ask

    def _ahead(self) -> int:
        """What was used a second since the last ask; at most a second's share of the minute."""
        pace = AHEAD_S * self._used / max(0.05, self._limits.clock() - self._asked_at)
        self._used = 0
        return int(min(pace, AHEAD_S * self.per_minute / 60) if self.per_minute else pace)

    def _learn(self, ask: Ask, answer: Answer) -> None:
        self.held += answer.granted
        self._held_since = ask.day.field
        self._seen, self._asked_at = answer, self._limits.clock()
        if self._local is not None:
            self._owed, self._spent = self._owed + self._local.owed, self._spent + self._local.spent
            self._local = None
        self.budgets.learn(ask.day, answer.used_day, ask.month, answer.used_month)
        self._limits.touch(self)

    def _go_local(self) -> None:
        """Go by this process's share, with the level that was known last."""
        if self._local is None:
            known = self._seen.level / self.per_minute if self._seen is not None and self.per_minute else 1.0
            age_s = self._limits.clock() - self._asked_at
            filled = min(1.0, known + age_s / 60)
            self._local = LocalShare(
                self._unit, self.per_minute, self.budgets, self._limits.processes, self._limits.clock, filled
            )
            self._limits.touch(self)


class Limits:
    """All limits of this process, and its way to Redis."""

    def __init__(
        self,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._workers = workers
        self.processes = workers  # that count limits; more than this gateway's own workers where Redis has told
        self.clock = clock
        self.now = now
        self.shared: SharedLimits | None = None
        self.numbers = count(1)
        self._secret = b""
        self._touched: set[Limit] = set()

    def connect(self, shared: SharedLimits | None, secret: bytes) -> None:
        """Share limits through Redis from now on; `secret`: that of the key hashes."""
        self.shared, self._secret = shared, secret

    def limit(self, digest: bytes, what: str, unit: str, per_minute: int, budgets: Budgets) -> Limit:
        """One limit of the key with this digest."""
        return Limit(self, digest, what, unit, per_minute, budgets)

    def key_id(self, digest: bytes) -> str:
        """What an API key of this digest is called in Redis and before operators."""
        return key_id(self._secret, digest)

    def heard_of(self, processes: int) -> None:
        """So many processes count limits now, on all gateways."""
        self.processes = max(self._workers, processes)

    def touch(self, limit: Limit) -> None:
        """There may be something to settle."""
        self._touched.add(limit)

    async def run(self) -> None:
        """Settle what there is once a second, until cancelled."""
        while True:
            await asyncio.sleep(AHEAD_S)
            await self.settle()

    async def settle(self) -> None:
        """Settle every limit that was used, a few at a time."""
        waiting = iter(list(self._touched))

        async def some() -> None:
            for limit in waiting:
                await limit.settle()
                if limit.is_settled:
                    self._touched.discard(limit)

        await asyncio.gather(*(some() for _ in range(SETTLED_AT_ONCE)))
        LIMITS_LOCAL.set(sum(limit.is_local for limit in self._touched))

    async def aclose(self, timeout_s: float = 2.0) -> None:
        """Give back all that is held, within a bound."""
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(2):  # at the first look, what was used lately is not idle
                    await self.settle()
        except TimeoutError:
            log.warning("stopped without giving back what was taken ahead of %d limits", len(self._touched))
