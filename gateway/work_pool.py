"""A few threads for work that would hold the event loop up: tokenizing and parsing what is long.

    body = await pool.run(namespace, partial(parse, content))
    encoded = await pool.collect(namespace, encoder.steps(texts))

Work comes in steps of bounded length. Tenants take turns step by step, so that one tenant's long work delays another's
by a step. Work whose request is cancelled, because its client left or its deadline passed, ends after the step that
runs. The threads are the pool's own: nothing else waits behind them.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

THREADS: Final = 2

T = TypeVar("T")


class WorkPool:
    """Used from one event loop."""

    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="work")
        self._free = threads
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # the first tenant's turn is next

    async def run(self, tenant: str, step: Callable[[], T]) -> T:
        """The result of one step, run on a thread when it is this tenant's turn. Raises what the step raises."""
        await self._turn(tenant)
        loop = asyncio.get_running_loop()
        work = self._executor.submit(step)
        # Not when this coroutine ends: a step that runs holds its thread, also when nobody waits for it any more.
        work.add_done_callback(lambda _: self._ended(loop))
        return await asyncio.wrap_future(work)

    async def collect(self, tenant: str, steps: Iterator[list[T]]) -> list[T]:
        """What all steps yield, in order."""
        found: list[T] = []
        while (part := await self.run(tenant, lambda: next(steps, None))) is not None:
            found += part
        return found

    def close(self) -> None:
        """End after the steps that run."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, tenant: str) -> None:
        """Take a free thread, in turn."""
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it was this one's turn at the very moment it was cancelled
            raise

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        """Hand a thread to the tenant whose turn it is."""
        while self._waiting:
            tenant, turns = self._waiting.popitem(last=False)
            while turns:
                turn = turns.popleft()
                if turn.done():
                    continue
                if turns:
                    self._waiting[tenant] = turns  # behind the others
                turn.set_result(None)
                return
        self._free += 1
