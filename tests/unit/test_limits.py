"""Limits that processes share: what is taken ahead, given back, and done while Redis, here a stand-in, is away."""

import asyncio

import pytest

from cache.redis_link import RedisAway
from cache.shared_limits import Answer, Ask
from gateway.buckets import Budgets
from gateway.errors import QuotaExceeded, RateLimited
from gateway.limits import FRESH_S, Limit, Limits


class StandInShared:
    """A bucket as the script keeps it, without its time; `away` fails asks, `lost` does them and loses the answer."""

    def __init__(self, level: float, budget: int = 10**15) -> None:
        self.level, self.left = level, budget
        self.asks: list[Ask] = []
        self.away = self.lost = False
        self.answers: dict[int, Answer] = {}

    async def ask(self, ask: Ask) -> Answer:
        self.asks.append(ask)
        await asyncio.sleep(0)
        if self.away:
            raise RedisAway("away")
        if ask.number not in self.answers:
            self.answers[ask.number] = self._done(ask)
        if self.lost:
            raise RedisAway("no answer")
        return self.answers[ask.number]

    def _done(self, ask: Ask) -> Answer:
        self.level = min(ask.capacity, self.level + ask.back) if ask.capacity else 10.0**15
        self.left += ask.returned
        granted, refused = 0, "minute" if self.level < min(ask.need, ask.capacity) else ""
        if ask.day.most and self.left < ask.need:
            refused = "day"
        if not refused:
            over = int(min(self.level, self.left) - ask.need)
            others = max(0, min(ask.waiting, over))
            granted = ask.need + others + max(0, min(ask.ahead, (over - others) // 4))
        self.level -= granted
        self.left -= granted
        return Answer(refused, granted, self.level, ask.day.most - self.left if ask.day.most else 0, 0)


NOW = [0.0]


@pytest.fixture(autouse=True)
def start() -> None:
    NOW[0] = 1000.0


def shared_limit(shared: StandInShared, per_minute: int = 600, per_day: int = 0, workers: int = 1) -> Limit:
    limits = Limits(workers, lambda: NOW[0], lambda: 1796040000.0)
    limits.connect(shared, b"s" * 32)  # type: ignore[arg-type]
    return limits.limit(b"digest", "t:m", "tokens", per_minute, Budgets(per_day, 0, limits.now))


async def test_a_busy_key_asks_about_once_a_second() -> None:
    """Of 500 requests in ten seconds a few ask; the rest take what was taken ahead, a second's share at most."""
    shared = StandInShared(600)
    limit = shared_limit(shared)
    for _ in range(500):
        await limit.take(1)
        shared.level = min(600, shared.level + 10 / 50)
        NOW[0] += 1 / 50
        assert limit.held <= 600 / 60
    assert len(shared.asks) <= 60


async def test_a_slow_limit_is_asked_for_each_time() -> None:
    """Below 60 a minute nothing is taken ahead, so nothing lies idle with one process that another could use."""
    shared = StandInShared(30)
    limit = shared_limit(shared, per_minute=30)
    for _ in range(10):
        await limit.take(1)
        assert limit.held == 0
    assert (len(shared.asks), shared.level) == (10, 20)


async def test_requests_that_come_together_ask_together() -> None:
    """A hundred at once need two asks, and take no more than there is."""
    shared = StandInShared(60)
    limit = shared_limit(shared, per_minute=60)
    outcomes = await asyncio.gather(*(limit.take(1) for _ in range(100)), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 60
    assert all(outcome is None or isinstance(outcome, RateLimited) for outcome in outcomes)
    assert len(shared.asks) <= 3
    assert shared.level + limit.held == 0


async def test_what_others_wanted_is_not_taken_again_for_them() -> None:
    """After a hundred at once, the next one takes what it needs and a second's share at most."""
    shared = StandInShared(6000)
    limit = shared_limit(shared, per_minute=600)
    shared.level = 600
    await asyncio.gather(*(limit.take(1) for _ in range(100)))
    await limit._limits.settle()
    await limit._limits.settle()
    assert limit.held == 0
    NOW[0] += 1
    await limit.take(1)
    assert limit.held <= 10
    assert shared.level + limit.held == 499


async def test_what_was_refused_is_refused_without_asking() -> None:
    """For a quarter of a second, with the right wait; then Redis is asked again."""
    shared = StandInShared(5)
    limit = shared_limit(shared, per_minute=60)
    for _ in range(20):
        with pytest.raises(RateLimited) as refused:
            await limit.take(15)
        assert refused.value.retry_after_s == pytest.approx(10)
    assert len(shared.asks) == 1
    await limit.take(5)  # which there is
    NOW[0] += FRESH_S + 0.01
    with pytest.raises(RateLimited):
        await limit.take(15)
    assert len(shared.asks) == 3


async def test_what_lies_idle_goes_back() -> None:
    """What was given back after a failure serves this process's next request, or in a second or two all others."""
    shared = StandInShared(600, budget=1000)
    limit = shared_limit(shared, per_day=1000)
    await limit.take(500)
    limit.give_back(500)
    await limit.take(100)
    assert (limit.held, shared.level, len(shared.asks)) == (400, 100, 1)
    await limit._limits.settle()
    await limit._limits.settle()
    assert (limit.held, shared.level, shared.left) == (0, 500, 900)
    assert limit.is_settled


async def test_more_than_a_minutes_needs_all_that_is_held() -> None:
    """Its own process's rest counts as being in the bucket."""
    shared = StandInShared(60)
    limit = shared_limit(shared, per_minute=60)
    await limit.take(10)
    limit.give_back(10)
    await limit.take(100)
    assert (limit.held, shared.level) == (0, -40)


async def test_while_redis_is_away_each_process_has_its_share() -> None:
    """Of what there was when it was last heard of, without asking again; afterwards it is counted there."""
    shared = StandInShared(600)
    limit = shared_limit(shared, workers=3)
    limit._limits.heard_of(4)
    await limit.take(300)
    shared.away = True
    await limit.take(75)  # a fourth of the half that is left
    asks = len(shared.asks)
    for _ in range(10):
        with pytest.raises(RateLimited):
            await limit.take(20)
    assert len(shared.asks) == asks
    shared.away = False
    await limit._limits.settle()
    assert shared.level == 300 - 75
    await limit.take(225)
    with pytest.raises(RateLimited):
        await limit.take(1)


async def test_a_long_outage_is_not_paid_for_twice() -> None:
    """What came in meanwhile has paid for what was spent: the bucket is made lower by what this share still lacks."""
    shared = StandInShared(600)
    limit = shared_limit(shared)
    shared.away = True
    for _ in range(10):
        await limit.take(600)
        NOW[0] += 60
    shared.away = False
    await limit._limits.settle()
    assert shared.level == 600


async def test_budgets_hold_while_redis_is_away() -> None:
    """Each process may spend its part of what was left; it is counted when Redis is back."""
    shared = StandInShared(10**6, budget=1000)
    limit = shared_limit(shared, per_minute=0, per_day=1000, workers=2)
    await limit.take(400)
    shared.away = True
    await limit.take(300)
    with pytest.raises(QuotaExceeded):
        await limit.take(1)
    shared.away = False
    await limit._limits.settle()
    assert shared.left == 300
    await limit.take(300)
    with pytest.raises(QuotaExceeded):
        await limit.take(1)


async def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    """Nothing is taken twice: the ask is sent as it was, and what it had been granted is found and goes back."""
    shared = StandInShared(600, budget=1000)
    limit = shared_limit(shared, per_day=1000)
    shared.lost = True
    await limit.take(100)  # by this process's share; Redis has counted it as well
    assert (shared.level, shared.left) == (500, 900)
    shared.lost = False
    for _ in range(3):
        await limit._limits.settle()
    assert (shared.level, shared.left) == (500, 900)
    assert shared.asks[0] == shared.asks[1]
    assert limit.is_settled


async def test_a_client_that_leaves_while_redis_is_asked_costs_nothing() -> None:
    """What was granted for it serves the next one."""
    shared = StandInShared(60)
    limit = shared_limit(shared, per_minute=60)
    task = asyncio.create_task(limit.take(30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await limit.take(60)
    assert shared.level + limit.held == 0


async def test_an_unforeseen_fault_leaves_nobody_waiting() -> None:
    """A request goes by this process's share, as when Redis is away."""

    class Broken:
        async def ask(self, ask: Ask) -> Answer:
            raise KeyError("unforeseen")

    limit = shared_limit(Broken())  # type: ignore[arg-type]
    await asyncio.gather(*(limit.take(1) for _ in range(50)))
    assert limit.is_local
