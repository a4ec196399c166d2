"""Long work on the event loop, in turns with everybody else's. Knows nothing of what the work is."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_turns(items: Iterable[T], at_once: int = 32) -> AsyncIterator[T]:
    """The items, in order; after every `at_once` of them the event loop serves others first."""
    for place, item in enumerate(items, 1):
        yield item
        if place % at_once == 0:
            await asyncio.sleep(0)
