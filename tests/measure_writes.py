"""What caching costs where nothing repeats, in CPU time of gateway and Redis: `python -m tests.measure_writes`.

Microseconds a text of 384 numbers: the look-up that finds nothing, the seal, and the write, by dtype and by how many
are written at once. The kinds take turns; each figure is the least of `ROUNDS`, since what else runs only adds.
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil

from cache.authentication import Seal
from cache.exact import Dtype, ExactTier, encode_value
from cache.redis_link import RedisLink
from tests.running_redis import running_redis

ROUNDS = 15
TEXTS = 2048
DIMENSIONS = 384
SECRET = b"s" * 32

Work = Callable[[], Awaitable[None]]


def fresh() -> list[bytes]:
    return [secrets.token_bytes(16) for _ in range(TEXTS)]


def kinds(link: RedisLink) -> dict[str, Work]:
    vector = np.random.default_rng(1).normal(size=DIMENSIONS).astype("<f4").tobytes()
    seal = Seal(SECRET, "exact")
    tier = ExactTier(link, SECRET, ttl_s=3600, ttl_jitter=0.1)

    async def look_up(at_once: int) -> None:
        digests = fresh()
        for start in range(0, TEXTS, at_once):
            await tier.get_many(digests[start : start + at_once], DIMENSIONS)

    async def seal_all(dtype: Dtype) -> None:
        for digest in fresh():
            encode_value(seal, digest, vector, dtype)

    async def write(at_once: int, dtype: Dtype) -> None:
        writer, digests = ExactTier(link, SECRET, ttl_s=3600, ttl_jitter=0.1, dtype=dtype), fresh()
        for start in range(0, TEXTS, at_once):
            await writer._write([(digest, vector) for digest in digests[start : start + at_once]])

    return {
        "look-up of 32 that finds nothing": lambda: look_up(32),
        "look-up of 1 that finds nothing": lambda: look_up(1),
        "seal, float32": lambda: seal_all("float32"),
        "seal, float16": lambda: seal_all("float16"),
        "seal and write 1 at once, float32": lambda: write(1, "float32"),
        "seal and write 4 at once, float32": lambda: write(4, "float32"),
        "seal and write 32 at once, float32": lambda: write(32, "float32"),
        "seal and write 128 at once, float32": lambda: write(128, "float32"),
        "seal and write 512 at once, float32": lambda: write(512, "float32"),
        "seal and write 128 at once, float16": lambda: write(128, "float16"),
    }


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_redis(Path(folder), maxmemory_mb=512) as server:
        link = RedisLink(server.url, timeout_s=10.0)
        of_server = psutil.Process(server.process.pid)
        least: dict[str, tuple[float, float]] = {}
        for _ in range(ROUNDS):
            for name, work in kinds(link).items():
                own, other = time.process_time(), sum(of_server.cpu_times()[:2])
                await work()
                found = time.process_time() - own, sum(of_server.cpu_times()[:2]) - other
                least[name] = tuple(map(min, found, least.get(name, found)))  # type: ignore[assignment]
        for name, (own, other) in least.items():
            print(f"{name:38} gateway {1e6 * own / TEXTS:5.0f} us, Redis {1e6 * other / TEXTS:5.0f} us")
        await link.aclose()


if __name__ == "__main__":
    asyncio.run(main())
