"""Background loops: kept running until their owner stops them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

log = logging.getLogger("dejavec.gateway")


async def keep_running(loop: Callable[[], Awaitable[None]]) -> None:
    """A loop that must not end: an unforeseen fault is logged and the loop started again."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("a background loop failed; it is started again")
            await asyncio.sleep(1)


async def stop(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait for their end."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
