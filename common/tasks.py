"""Ending background tasks for certain.

await cancel_and_wait(tasks)
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

AGAIN_S: Final = 1.0


async def cancel_and_wait(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they have ended; what they raise is dropped.

    Once is not always enough: where a library turns a cancellation into an error of its own, the task goes on.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # seen, so that it is not reported as never retrieved
