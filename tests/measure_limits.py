"""What a limit costs a cached request: the figures of docs/decisions/limits-are-taken-ahead.md.

python -m tests.measure_limits
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from cache.redis_link import RedisLink
from cache.shared_limits import SharedLimits
from gateway.buckets import Budgets
from gateway.limits import Limit, Limits
from gateway.usage import KeyUsage
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import running_redis
from tests.stand_in_engine import StandInEngine

ROUNDS, REQUESTS = 15, 400
BODY = b'{"model": "tiny", "input": "w1"}'
KEYS = {"none": {}, "limited": {"requests_per_minute": 10**6, "tokens_per_minute": 10**7, "tokens_per_day": 10**12}}


async def lowest_us(work: Callable[[], Awaitable[object]], times: int) -> float:
    """The lowest mean of many rounds, in microseconds."""
    means = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(times):
            await work()
        means.append((time.perf_counter() - started) / times * 1e6)
    return min(means)


async def parts(link: RedisLink) -> None:
    """A take of what is held, an ask of Redis, a count of usage."""
    limits = Limits()
    limits.connect(SharedLimits(link, "process"), secrets.token_bytes(32))
    limit, usage = Limit(limits, b"", "requests", "requests", 6000, Budgets(0, 0)), KeyUsage(b"")
    limit.held = 10**9

    async def count() -> None:
        usage.count(3, ["local"])

    print(f"take of what is held         {await lowest_us(lambda: limit.take(1), 20_000):7.2f} us")
    print(f"count of what is used        {await lowest_us(count, 20_000):7.2f} us")
    print(f"ask of Redis, a round trip   {await lowest_us(lambda: limit._ask(1, 0), 200):7.1f} us")


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    """One cached text over a connection that stays open."""
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    writer.write(head.encode() + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200"), answer
    length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def whole(redis_url: str) -> None:
    """A request for a text in L0: with a key that has no limits, and with one that has three; in turns."""
    names = {name: f"key-of-measurement-{name}" for name in KEYS}
    keys = {names[name]: {"namespace": "a", **limits} for name, limits in KEYS.items()}
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(engine.url, api_keys=keys, redis_url=redis_url, local_cache_ttl_seconds=600) as client,
    ):
        await until_ready(client)
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        means: dict[str, list[float]] = {name: [] for name in KEYS}
        for _ in range(ROUNDS):
            for name, key in names.items():
                started = time.perf_counter()
                for _ in range(REQUESTS):
                    await request(reader, writer, key)
                means[name].append((time.perf_counter() - started) / REQUESTS * 1e6)
        writer.close()
    for name, found in means.items():
        print(f"cached request, key {name:8} {min(found):7.1f} us")


async def main() -> None:
    """Print the lowest time of each."""
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder)) as redis:
        link = RedisLink(redis.url, timeout_s=1.0)
        await parts(link)
        await link.aclose()
        await whole(redis.url)


if __name__ == "__main__":
    uvloop.run(main())
