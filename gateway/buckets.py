"""Limits as one process counts them by itself: a token bucket, and the budgets of a key by calendar day and month.

Where gateways share limits (`gateway.limits`), this is what they go by while Redis is away: each process its share.
"""

import calendar
import math
import time
from collections.abc import Callable

from cache.shared_limits import Count
from cache.usage import period_of_day, period_of_month
from gateway.errors import QuotaExceeded, RateLimited
from gateway.metrics import LIMIT_REFUSALS


class Bucket:
    """A token bucket holding one minute's allowance; `filled`: the share of it that there is at first."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic, filled: float = 1.0) -> None:
        self._capacity = max(per_minute, 1.0)
        self._rate_per_s = per_minute / 60
        self._level = self._capacity * filled
        self._clock = clock
        self._at = clock()

    def wait_s(self, amount: float = 1) -> float:
        """Seconds until so much may be taken; 0 when it may now. More than a minute's needs a full bucket."""
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate_per_s)
        self._at = now
        return max(0.0, (min(amount, self._capacity) - self._level) / self._rate_per_s)

    def take(self, amount: float) -> None:
        """Take an amount."""
        self._level -= amount

    def give_back(self, amount: float) -> None:
        """Put back what was taken and not used."""
        self._level = min(self._capacity, self._level + amount)

    @property
    def level(self) -> float:
        """What it holds now; below 0 is a debt."""
        self.wait_s()
        return self._level

    @property
    def missing(self) -> float:
        """What it lacks of being full."""
        return self._capacity - self.level


class Budgets:
    """The budgets of one key, for all its models: what is known of Redis' counts, and what was spent beside them."""

    def __init__(self, per_day: int, per_month: int, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._day = _Period("day", per_day, "", 0, 0)
        self._month = _Period("month", per_month, "", 0, 0)
        self.is_any = bool(per_day or per_month)

    def counts(self) -> tuple[Count, Count]:
        """This day's and this month's, with what is known of them."""
        self._roll()
        day, month = self._day, self._month
        return Count(day.field, day.most, day.known), Count(month.field, month.most, month.known)

    def learn(self, day: Count, used_day: int, month: Count, used_month: int) -> None:
        """Go by what Redis has counted for that day and month."""
        self._roll()
        for period, field, used in ((self._day, day.field, used_day), (self._month, month.field, used_month)):
            if period.field == field:
                period.known, period.spent = used, 0

    def check(self, amount: int, held: int = 0, processes: int = 1) -> None:
        """Raises QuotaExceeded where less than `amount` is left to each of `processes`, beside what is `held`."""
        if not self.is_any:
            return
        self._roll()
        for period in (self._month, self._day):
            if period.most and amount - held > max(0, period.most - period.known) / processes - period.spent:
                raise self.exceeded(period.name)

    def used(self, name: str) -> int:
        """What is known to be used of a budget, what was taken ahead included."""
        self._roll()
        period = self._month if name == "month" else self._day
        return max(0, period.known + period.spent)

    def spend(self, amount: int) -> None:
        """Count what Redis has not been asked for; below 0: it was given back."""
        if self.is_any:
            self._day.spent += amount
            self._month.spent += amount

    def exceeded(self, name: str) -> QuotaExceeded:
        """The error that names a budget, and when it renews."""
        self._roll()
        period = self._month if name == "month" else self._day
        LIMIT_REFUSALS.labels(name).inc()
        return QuotaExceeded(
            f"this request is over what is left of this key's budget of {period.most} tokens a {name}; it renews at "
            f"{self.renews_at(name)}. GET /v1/usage has what was used",
            retry_after_s=self.renews_in_s(name),
        )

    def renews_in_s(self, name: str) -> float:
        """Seconds until the UTC day or month is over."""
        return max(1.0, self._end(name) - self._now())

    def renews_at(self, name: str) -> str:
        """The beginning of the next UTC day or month, as ISO 8601 has it."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._end(name)))

    def _end(self, name: str) -> int:
        today = time.gmtime(self._now())
        if name == "day":
            return calendar.timegm((today.tm_year, today.tm_mon, today.tm_mday + 1, 0, 0, 0))
        year, month = divmod(12 * today.tm_year + today.tm_mon, 12)  # tm_mon counts from 1: this is the next one
        return calendar.timegm((year, month + 1, 1, 0, 0, 0))

    def _roll(self) -> None:
        now = self._now()
        for period, field in ((self._day, period_of_day(now)), (self._month, period_of_month(now))):
            if period.field != field:
                period.field, period.known, period.spent = field, 0, 0


class _Period:
    """One budget in the period that is now: `known` counted in Redis, `spent` by this process without asking."""

    __slots__ = ("field", "known", "most", "name", "spent")

    def __init__(self, name: str, most: int, field: str, known: int, spent: int) -> None:
        self.name, self.most, self.field, self.known, self.spent = name, most, field, known, spent


class LocalShare:
    """What one process may take of a limit by itself: a share of the minute's allowance, and of what budgets have left.

    `spent` is what it has taken since it was made, less what was given back.
    """

    def __init__(
        self,
        unit: str,
        per_minute: int,
        budgets: Budgets,
        processes: int,
        clock: Callable[[], float],
        filled: float = 1.0,
    ) -> None:
        self._unit = unit
        self._bucket = Bucket(per_minute / processes, clock, filled) if per_minute else None
        self._budgets = budgets
        self._processes = processes
        self.spent = 0

    def check(self, amount: int) -> None:
        """Raises RateLimited or QuotaExceeded where there is less."""
        self._budgets.check(amount, processes=self._processes)
        if self._bucket is not None and (wait_s := self._bucket.wait_s(amount)) > 0:
            raise used_up(self._unit, wait_s)

    def take(self, amount: int) -> None:
        """Take an amount; below 0: give it back."""
        self.spent += amount
        self._budgets.spend(amount)
        if self._bucket is None:
            return
        if amount >= 0:
            self._bucket.take(amount)
        else:
            self._bucket.give_back(-amount)

    @property
    def owed(self) -> float:
        """What the bucket that all share has to be made lower by: what was spent, and has not come in since."""
        return 0.0 if self._bucket is None else min(float(self.spent), self._bucket.missing)

    @property
    def left(self) -> int | None:
        """What may be taken now of a minute's allowance; None without one."""
        return None if self._bucket is None else max(0, math.floor(self._bucket.level))


def used_up(unit: str, wait_s: float) -> RateLimited:
    """The error that says when to come back."""
    LIMIT_REFUSALS.labels(unit).inc()
    return RateLimited(
        f"this key's limit of {unit} a minute is used up; try again in {math.ceil(wait_s)} s", retry_after_s=wait_s
    )
