"""Work in turns."""

import asyncio

from cache.turns import in_turns


async def test_others_are_served_between() -> None:
    """All items come in order, and another task runs after each few of them."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(tick())
    assert [item async for item in in_turns(range(100), at_once=10)] == list(range(100))
    assert 9 <= ticks <= 11
    other.cancel()
