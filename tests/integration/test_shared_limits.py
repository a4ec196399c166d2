"""Limits of keys that processes share through a real Redis: the script, its bounds, and what is left without Redis."""

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from cache.keys import api_key_key
from cache.redis_link import RedisAway, RedisLink
from cache.shared_limits import Ask, Count, SharedLimits
from cache.usage import DAYS, MONTHS, Counts, UsageStore
from gateway.buckets import Budgets
from gateway.errors import QuotaExceeded, RateLimited
from gateway.limits import Limit, Limits
from tests.running_redis import running_redis

DAY, MONTH = "2026-11-26", "2026-11"
NOON = 1796040000.0  # of 2026-11-30


@pytest.fixture
def identity() -> str:
    """A key's id of this test's own."""
    return secrets.token_hex(8)


def an_ask(identity: str, need: int, number: int = 0, **other: object) -> Ask:
    given = {
        "capacity": 60, "waiting": 0, "ahead": 0, "back": 0.0, "returned": 0, "day": Count(DAY), "month": Count(MONTH),
    } | other  # fmt: skip
    return Ask(number=number or secrets.randbelow(10**9), key_id=identity, what="t:m", need=need, **given)  # type: ignore[arg-type]


def process(link: RedisLink, secret: bytes, now: list[float] | None = None) -> Limits:
    """The limits of one more process on this Redis."""
    limits = Limits(now=(lambda: now[0]) if now else time.time)
    limits.connect(SharedLimits(link, secrets.token_hex(8)), secret)
    return limits


def a_limit(limits: Limits, per_minute: int = 0, per_day: int = 0, per_month: int = 0) -> Limit:
    budgets = Budgets(per_day, per_month, limits.now)
    return limits.limit(b"digest", "t:m", "tokens", per_minute, budgets)


async def admitted(limit: Limit, amount: int = 1) -> int:
    """So much was admitted: `amount`, or nothing."""
    try:
        await limit.take(amount)
    except RateLimited:
        return 0
    return amount


async def test_asks_take_give_back_and_owe(link: RedisLink, identity: str) -> None:
    """The bucket's arithmetic: all or nothing, a full bucket for more than it holds, debts, and returns."""
    shared = SharedLimits(link, "p")
    first = await shared.ask(an_ask(identity, 50))
    assert (first.refused, first.granted, round(first.level)) == ("", 50, 10)
    refused = await shared.ask(an_ask(identity, 40))
    assert (refused.refused, refused.granted) == ("minute", 0)
    back = await shared.ask(an_ask(identity, 0, back=50.0))
    assert back.level == 60
    large = await shared.ask(an_ask(identity, 600))
    assert (large.granted, round(large.level)) == (600, -540)
    assert (await shared.ask(an_ask(identity, 1))).refused == "minute"
    ttl = await link.redis.ttl(api_key_key(identity, "t:m"))
    assert 600 < ttl <= 661  # until it is full, and a minute
    await shared.ask(an_ask(identity, 0, back=570.0))
    ahead = await shared.ask(an_ask(identity, 2, waiting=3, ahead=100))
    assert 5 < ahead.granted <= 5 + 30 / 4


async def test_budgets_are_counted_with_the_bucket_and_kept(link: RedisLink, identity: str) -> None:
    """What one limit refuses is taken of none; another day has its own count; counts have no TTL."""
    shared = SharedLimits(link, "p")
    budget = {"capacity": 1000, "day": Count(DAY, 100), "month": Count(MONTH, 150)}
    assert (await shared.ask(an_ask(identity, 90, **budget))).used_day == 90
    refused = await shared.ask(an_ask(identity, 20, **budget))
    assert (refused.refused, refused.used_day, round(refused.level, -1)) == ("day", 90, 910)
    tomorrow = budget | {"day": Count("2026-11-27", 100)}
    assert (await shared.ask(an_ask(identity, 61, **tomorrow))).refused == "month"
    answer = await shared.ask(an_ask(identity, 60, **tomorrow))
    assert (answer.granted, answer.used_day, answer.used_month) == (60, 60, 150)
    answer = await shared.ask(an_ask(identity, 0, returned=30, **tomorrow))
    assert (answer.used_day, answer.used_month) == (30, 120)
    assert await link.redis.ttl(api_key_key(identity, "budget")) == -1


async def test_an_ask_counts_once(link: RedisLink, identity: str) -> None:
    """Sent again under its number it is answered as before; another process's number is another ask."""
    shared = SharedLimits(link, "p")
    ask = an_ask(identity, 20, number=7)
    assert await shared.ask(ask) == await shared.ask(ask)
    assert round((await SharedLimits(link, "q").ask(ask)).level) == 20


async def test_lost_counts_begin_with_what_a_gateway_knows(link: RedisLink, identity: str) -> None:
    """Of two that know, the first one's is taken and nothing is added up."""
    shared = SharedLimits(link, "p")
    for need, used in ((10, 90), (5, 95)):
        answer = await shared.ask(an_ask(identity, need, capacity=0, day=Count(DAY, 100, known=80)))
        assert answer.used_day == used


@pytest.mark.parametrize("garbage", [b"", b"nan", b"inf", b"-inf", b"1e999", b"x" * 100, b"\xff\x00", b"0x10"])
async def test_garbage_in_a_limit_harms_nobody(link: RedisLink, identity: str, garbage: bytes) -> None:
    """What is no number counts as nothing, what is of another type is replaced; no error reaches the breaker."""
    bucket, budget = api_key_key(identity, "t:m"), api_key_key(identity, "budget")
    await link.redis.hset(bucket, mapping={b"level": garbage, b"at": garbage})
    await link.redis.hset(budget, mapping={DAY: garbage})
    await link.redis.set(api_key_key(identity, "a:p:t:m"), b"1 " + garbage)
    shared = SharedLimits(link, "p")
    answer = await shared.ask(an_ask(identity, 10, day=Count(DAY, 100)))
    assert (answer.refused, answer.granted) == ("", 10)
    for key in (bucket, budget, api_key_key(identity, "a:p:t:m")):
        await link.redis.delete(key)
        await link.redis.lpush(key, garbage)
    assert (await shared.ask(an_ask(identity, 10, day=Count(DAY, 100)))).granted == 10
    await link.redis.hset(bucket, mapping={b"level": b"-1e14", b"at": b"9e14"})
    assert (await shared.ask(an_ask(identity, 10))).refused == "minute"
    await link.redis.set(api_key_key(identity, "a:p:t:m"), b"5 " + garbage)
    with pytest.raises(RedisAway):
        await shared.ask(an_ask(identity, 10, number=5))
    assert link.state == "ok"


@pytest.mark.parametrize("per_minute", [30, 6000])
async def test_processes_together_admit_what_the_limit_says(link: RedisLink, per_minute: int) -> None:
    """Four at once, as fast as they can: at most the bucket and what came in; at least that less what lies ahead."""
    secret = secrets.token_bytes(32)
    limits = [a_limit(process(link, secret), per_minute) for _ in range(4)]

    async def pound(limit: Limit) -> int:
        total, refusals = 0, 0
        while refusals < 20:
            passed = await admitted(limit)
            total += passed
            refusals += not passed
        return total

    started = time.monotonic()
    total = sum(await asyncio.gather(*(pound(limit) for limit in limits)))
    came_in = (time.monotonic() - started) * per_minute / 60
    assert total <= per_minute + came_in
    assert total >= per_minute - 4 * per_minute / 60
    assert sum(limit.held for limit in limits) <= 4 * per_minute / 60


async def test_a_budget_is_never_overdrawn(link: RedisLink) -> None:
    """Four processes at once, with requests of all sizes: what was admitted is what Redis has counted, less what is
    held."""
    secret = secrets.token_bytes(32)
    limits = [a_limit(process(link, secret), per_day=10_000) for _ in range(4)]

    async def pound(limit: Limit) -> int:
        return sum([await admitted(limit, size % 7 + 1) for size in range(1500)])

    total = sum(await asyncio.gather(*(pound(limit) for limit in limits)))
    held = sum(limit.held for limit in limits)
    assert total + held <= 10_000
    assert total + held >= 10_000 - 7
    for limit in limits:
        limit._limits.touch(limit)
        await limit._limits.aclose()
    with pytest.raises(QuotaExceeded):
        await limits[0].take(held + 8)
    assert await admitted(limits[0], 10_000 - total) == 10_000 - total


async def test_a_budget_renews_with_the_day_for_all(link: RedisLink) -> None:
    """At midnight by their clocks, one after the other; the month goes on."""
    secret, clock = secrets.token_bytes(32), [NOON]
    first, second = (a_limit(process(link, secret, clock), per_day=100, per_month=150) for _ in range(2))
    assert await admitted(first, 60) + await admitted(second, 60) == 60
    clock[0] = 1796083199.0
    assert await admitted(second, 41) == 0
    clock[0] = 1796083200.0  # of December as well: a new month
    assert await admitted(second, 100) + await admitted(first, 60) == 100
    clock[0] += 86_400
    assert await admitted(first, 51) == 0
    assert await admitted(second, 50) == 50


async def test_redis_killed_and_back(tmp_path: Path) -> None:
    """Counts survive the restart; meanwhile each process has its share of what was left."""
    secret = secrets.token_bytes(32)
    with running_redis(tmp_path) as redis:
        link = RedisLink(redis.url, timeout_s=1.0)
        limits = [a_limit(process(link, secret), per_day=1000) for _ in range(2)]
        for limit in limits:
            limit._limits.heard_of(2)
            assert await admitted(limit, 200) == 200
        await link.redis.execute_command("WAITAOF", 1, 0, 5000)  # type: ignore[no-untyped-call]
        redis.kill()
        # The first knew of 200 that were used, the second of 400: half of what was left to each.
        assert [await admitted(limits[0], size) for size in (401, 300)] == [0, 300]
        assert [await admitted(limits[1], size) for size in (301, 200)] == [0, 200]
        assert [limit.is_local for limit in limits] == [True, True]
        redis.restart()
        async with asyncio.timeout(60):
            while any(limit.is_local for limit in limits):
                await asyncio.gather(*(limit.settle() for limit in limits))
                await asyncio.sleep(0.05)
        assert await admitted(limits[0], 101) == 0
        assert limits[0].budgets.used("day") == 900
        assert await admitted(limits[1], 100) == 100
        await link.aclose()


async def test_a_frozen_redis_holds_nobody(tmp_path: Path) -> None:
    """Of many requests the first ones wait for one time limit, together; then nobody does."""
    import os
    import signal

    with running_redis(tmp_path) as redis:
        link = RedisLink(redis.url, timeout_s=0.2)
        limits = process(link, secrets.token_bytes(32))
        limit = a_limit(limits, 6000)
        await link.redis.ping()
        os.kill(redis.process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(120):
                assert sum([await admitted(limit) for _ in range(500)]) == 500
            assert limit.is_local
        finally:
            os.kill(redis.process.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            while not limit.is_settled:
                await limits.settle()
                await asyncio.sleep(0.05)
        level = await limit.left()
        assert level is not None
        await link.aclose()


@pytest.fixture
def stores(link: RedisLink) -> list[UsageStore]:
    """Two processes' ways to what was used."""
    return [UsageStore(link, secrets.token_hex(8)) for _ in range(2)]


async def test_usage_of_processes_adds_up_and_each_batch_once(stores: list[UsageStore], identity: str) -> None:
    """Also one that is sent again since its answer was lost."""
    for store in stores:
        for _ in range(2):
            await store.record(identity, 1, {DAY: Counts(3, 1, 40, 2, 0, 0, 1), MONTH: Counts(3)})
    assert await stores[0].read(identity) == {DAY: Counts(6, 2, 80, 4, 0, 0, 2), MONTH: Counts(6)}


async def test_usage_is_bounded_and_kept(stores: list[UsageStore], link: RedisLink, identity: str) -> None:
    """The latest days and months stay, whatever else somebody has put there; nothing expires."""
    key = api_key_key(identity, "usage")
    await link.redis.hset(key, mapping={"x": "1", "2030-01-01": "nan inf x", "2026-01-01": b"\xff" * 300})
    for number in range(60):
        days = {f"2026-{1 + number // 28:02}-{1 + number % 28:02}": Counts(requests=1, tokens=2**52)}
        await stores[0].record(identity, number + 1, days | {f"{2020 + number // 12}-{1 + number % 12:02}": Counts(1)})
    kept = await stores[1].read(identity)
    assert sorted(len(period) for period in kept) == [7] * MONTHS + [10] * (DAYS - 1)
    assert kept["2026-03-04"] == Counts(requests=1, tokens=2**52)
    assert await link.redis.ttl(key) == -1
    await link.redis.delete(key)
    await link.redis.set(key, "garbage")
    assert await stores[0].read(identity) == {}
    await stores[0].record(identity, 99, {DAY: Counts(1)})
    assert await stores[0].read(identity) == {DAY: Counts(1)}


async def test_processes_know_how_many_they_are(link: RedisLink) -> None:
    """Each one that was heard of lately counts, once."""
    one, two = (UsageStore(link, secrets.token_hex(8)) for _ in range(2))
    before = await one.present()
    assert await two.present() == before + 1
    assert await one.present() == before + 1
