"""A bounded queue and the loop that works it off in batches.

queue = BatchQueue(write, max_queued=8192, batch_size=128, gather_s=0.02)
queue.put_many(items)             # at once; what does not fit is dropped, and the number of dropped items returned
await queue.run()                 # as a background task: awaits write(batch) until cancelled
await queue.flush(timeout_s=5)    # before the end
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class BatchQueue(Generic[T]):
    """Items in order of arrival, at most `max_queued`; `work` gets up to `batch_size` of them at a time.

    `gather_s`: so long the loop waits for more where there are fewer, so that items of a moment share one call. A
    flush ends that wait, and there is none while one waits.
    """

    def __init__(
        self, work: Callable[[list[T]], Awaitable[None]], max_queued: int, batch_size: int, gather_s: float = 0.0
    ) -> None:
        self._work = work
        self._max_queued = max_queued
        self._batch_size = batch_size
        self._gather_s = gather_s
        self._flushes = 0
        self._items: deque[T] = deque()
        self._filled = asyncio.Event()
        self._is_enough = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._items)

    def put_many(self, items: Sequence[T]) -> int:
        """Queue the first of `items` that fit; how many were dropped."""
        room = max(0, self._max_queued - len(self._items))
        dropped = max(0, len(items) - room)
        self._items.extend(items[:room] if dropped else items)
        if self._items:
            self._idle.clear()
            self._filled.set()
        if len(self._items) >= self._batch_size:
            self._is_enough.set()
        return dropped

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all queued items are worked off, at most `timeout_s`; whether they were."""
        self._flushes += 1
        self._is_enough.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._flushes -= 1
        return True

    async def run(self) -> None:
        """Work off the queue until cancelled; what `work` raises ends it, and another `run` goes on with the rest."""
        while True:
            while self._items:
                await self._gather()
                batch = [self._items.popleft() for _ in range(min(len(self._items), self._batch_size))]
                await self._work(batch)
            self._idle.set()
            await self._filled.wait()
            self._filled.clear()

    async def _gather(self) -> None:
        if not self._gather_s or self._flushes or len(self._items) >= self._batch_size:
            return
        self._is_enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._gather_s):
                await self._is_enough.wait()
