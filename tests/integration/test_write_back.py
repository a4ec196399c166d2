"""Write-backs over a real Redis: those of a moment share one command, and what waits is neither lost nor too late."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

import cache.exact
from cache.epochs import Epochs
from cache.exact import ExactTier
from cache.keys import Scope, exact_key
from cache.redis_link import RedisLink
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine

SECRET = b"s" * 32
DIMENSIONS = 8
UNIT = np.eye(1, DIMENSIONS, dtype="<f4").tobytes()


def fresh() -> bytes:
    return secrets.token_bytes(16)


@asynccontextmanager
async def writing(link: RedisLink, ttl_s: int = 600, **options: Any) -> AsyncIterator[ExactTier]:
    """An exact tier whose writer runs."""
    tier = ExactTier(link, SECRET, ttl_s=ttl_s, ttl_jitter=0.1, **options)
    writer = asyncio.create_task(tier.run_writer())
    yield tier
    writer.cancel()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waits so long that only a flush or a full batch ends it."""
    monkeypatch.setattr(cache.exact, "WRITE_GATHER_S", 3600.0)


async def commands(redis: Redis) -> dict[str, int]:
    """How many SET commands and scripts there were."""
    stats = await redis.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("set", "eval")}


@pytest.mark.usefixtures("patient")
async def test_writes_of_a_moment_share_one_command(link: RedisLink) -> None:
    """However many requests they came from; each can be read once it is there."""
    digests = [fresh() for _ in range(5)]
    async with writing(link) as tier:
        before = await commands(link.redis)
        for digest in digests:
            tier.put_many([(digest, UNIT)])
            await asyncio.sleep(0.005)
        assert tier.queued_writes == 5
        await tier.flush(30)
        after = await commands(link.redis)
        assert await tier.get_many(digests, DIMENSIONS) == [UNIT] * 5
    assert after["eval"] - before["eval"] == 1


@pytest.mark.parametrize("count", [1, 2, 130])
async def test_each_entry_has_its_life(link: RedisLink, count: int) -> None:
    """In a command of its own, in a script with others, in several."""
    digests = [fresh() for _ in range(count)]
    async with writing(link, ttl_s=1000) as tier:
        tier.put_many([(digest, UNIT) for digest in digests])
        await tier.flush(30)
    lives = [await link.redis.ttl(exact_key(digest)) for digest in digests]
    assert all(890 <= life <= 1100 for life in lives)


async def test_nobody_has_to_flush(link: RedisLink) -> None:
    """What is queued is written within moments."""
    digest = fresh()
    async with writing(link) as tier, asyncio.timeout(30):
        tier.put_many([(digest, UNIT)])
        while await tier.get_many([digest], DIMENSIONS) != [UNIT]:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("patient")
async def test_the_queue_stays_bounded_while_it_waits(link: RedisLink) -> None:
    """What does not fit is dropped, the first stay."""
    digests = [fresh() for _ in range(5)]
    async with writing(link, max_queued_writes=3) as tier:
        for digest in digests:
            tier.put_many([(digest, UNIT)])
        assert tier.queued_writes == 3
        await tier.flush(30)
        assert await tier.get_many(digests, DIMENSIONS) == [UNIT] * 3 + [None] * 2


@pytest.mark.usefixtures("patient")
async def test_a_write_that_waits_does_not_come_back_after_a_purge(link: RedisLink) -> None:
    """It was decided before, is made after, and lies where nobody looks any more."""
    name, epochs = secrets.token_hex(8), Epochs(link, SECRET)

    async def digest() -> bytes:
        found = await epochs.ensure(name)
        assert found is not None
        return Scope(SECRET, "fingerprint", name, found).digest_of_ids(b"text")

    old = await digest()
    async with writing(link) as tier:
        tier.put_many([(old, UNIT)])
        await epochs.purge(name)
        await tier.flush(30)
        new = await digest()
        assert new != old
        assert await tier.get_many([old, new], DIMENSIONS) == [UNIT, None]


@pytest.mark.usefixtures("patient")
async def test_a_gateway_that_ends_writes_what_waits(redis: RunningRedis) -> None:
    """The next one finds it."""
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        ask: Callable[..., Any] = lambda client: client.post(  # noqa: E731
            "/v1/embeddings", json={"model": "tiny", "input": ["a b", "c d"]}
        )
        for expected in ("miss", "exact"):
            async with running_gateway(engine.url, redis_url=redis.url) as client:
                await until_ready(client)
                assert (await ask(client)).headers["x-cache"] == expected


@pytest.mark.usefixtures("patient")
async def test_spellings_of_one_text_are_all_kept_at_hand(redis: RunningRedis) -> None:
    """Those with the same tokens are computed once, and each is found in L0 afterwards, while its write still waits."""
    texts = ["a b", "a  b", " a b"]
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(engine.url, redis_url=redis.url) as client,
    ):
        await until_ready(client)
        for expected in ("miss", "local"):
            reply = await client.post("/v1/embeddings", json={"model": "tiny", "input": texts})
            assert reply.headers["x-cache"] == expected
            vectors = [row["embedding"] for row in reply.json()["data"]]
            assert vectors == [vectors[0]] * 3
