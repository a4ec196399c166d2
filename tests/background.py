"""An async resource that lives in an event loop of its own, for tests that are plain functions."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(resource: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Enter `resource` in a thread with its own loop, and leave it at the end of the block."""
    entered: Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        async with resource as value:
            entered.set_result((value, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    value, loop, stop = entered.result(60)
    try:
        yield value
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive(), "the background resource did not end"
