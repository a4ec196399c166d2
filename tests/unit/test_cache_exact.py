"""The exact tier's look-ups, with a link that answers when it is told to."""

import asyncio
from collections.abc import Sequence

from cache.exact import ExactTier


class Link:
    """A Redis whose replies, each a miss, come when the test lets them."""

    def __init__(self) -> None:
        self.replies: list[asyncio.Future[None]] = []

    async def on_each(self, keys: Sequence[bytes], *_: object) -> list[None]:
        self.replies.append(asyncio.get_running_loop().create_future())
        await self.replies[-1]
        return [None] * len(keys)


async def test_a_look_up_that_begins_as_the_others_end_is_answered() -> None:
    """When all MGETs under way end in one turn of the event loop, one that begins in that very turn is sent too."""
    link, turn = Link(), asyncio.get_running_loop().create_future()
    tier = ExactTier(link, b"s" * 32, ttl_s=60, ttl_jitter=0)  # type: ignore[arg-type]

    async def look_up(after: asyncio.Future[None] | None = None) -> list[bytes | None]:
        if after is not None:
            await after
        return await tier.get_many([b"d" * 16], 4)

    others = []
    for number in (1, 2):
        others.append(asyncio.create_task(look_up()))
        while len(link.replies) < number:
            await asyncio.sleep(0)
    late = asyncio.create_task(look_up(after=turn))
    await asyncio.sleep(0)
    for future in (*link.replies, turn):
        future.set_result(None)
    await asyncio.gather(*others)
    async with asyncio.timeout(5):
        while len(link.replies) < 3:
            await asyncio.sleep(0)
    link.replies[2].set_result(None)
    assert await late == [None]
