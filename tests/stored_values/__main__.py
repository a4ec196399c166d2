"""Has a gateway of this release store values of every kind, and writes them to a file; see the package."""

import asyncio
import sys
import tempfile
from pathlib import Path

import httpx
from redis.asyncio import Redis

from tests.gateway_client import running_gateway, until_ready
from tests.integration.test_semantic_tier import OPERATOR, ask, until
from tests.running_redis import running_redis
from tests.stand_in_engine import StandInEngine
from tests.stored_values import ASKED, FINGERPRINT, KEY, LIVE, NAMESPACE, SETTINGS, TEXTS, StoredValues, dump


async def make(redis_url: str) -> StoredValues:
    """Exact entries, documents, epochs, live values, and a partition's events, state and matrix."""
    async with (
        StandInEngine(fingerprint=FINGERPRINT, has_static_embedding=True).running() as engine,
        running_gateway(engine.url, redis_url=redis_url, **SETTINGS) as client,
        Redis.from_url(redis_url) as redis,
    ):
        await until_ready(client)
        change = await client.put("/admin/thresholds", json={"namespace": NAMESPACE, **LIVE}, headers=OPERATOR)
        assert change.status_code == 200, change.text
        for text in TEXTS:
            await ask(client, text, KEY, **{"x-cache-control": "exact-only"})

        async def has_all() -> bool:
            for text in TEXTS:  # again, so that those that came before the index are in it
                await ask(client, text, KEY, **{"x-cache-control": "no-cache"})
            return bool(len(await redis.keys("dv1:t:*")) >= len(TEXTS) and await redis.keys("dv1:a:*"))

        await until(has_all)
        for text in ASKED:
            await ask(client, text, KEY)

        async def has_counted() -> bool:
            return bool((await _learned(client))["hits"])

        await until(has_counted)
        await asyncio.sleep(1.0)  # what is still to be exchanged
        return await dump(redis, await _learned(client))


async def _learned(client: httpx.AsyncClient) -> dict[str, float]:
    shown = (await client.get("/admin/thresholds", headers=OPERATOR)).json()
    learned: dict[str, float] = shown["namespaces"][NAMESPACE]["learned"]
    return learned


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as running:
        asyncio.run(make(running.url)).save(Path(sys.argv[1]))
