"""Background loops: kept running until their owner stops them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("dejavec.gateway")


async def keep_running(loop: Callable[[], Awaitable[None]]) -> None:
    """A loop that must not end: an unforeseen fault is logged and the loop started again."""
    while True:
        try:
            await loop()
        except Exception:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # a library made another error of the cancellation
                raise asyncio.CancelledError from None
            log.exception("a background loop failed; it is started again")
            await asyncio.sleep(1)
