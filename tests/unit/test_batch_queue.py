"""A bounded queue worked off in batches."""

import asyncio
from contextlib import suppress

from common.batch_queue import BatchQueue


async def test_batches_keep_the_order_and_their_size() -> None:
    """What was queued comes in order, at most so many at a time; then the queue is flushed."""
    batches: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        batches.append(batch)

    queue = BatchQueue(work, max_queued=10, batch_size=2)
    assert queue.put_many([1, 2, 3]) == 0
    loop = asyncio.create_task(queue.run())
    assert await queue.flush(5)
    assert queue.put_many([4]) == 0
    assert await queue.flush(5)
    loop.cancel()
    assert batches == [[1, 2], [3], [4]]


async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    """The first items stay."""

    async def work(batch: list[int]) -> None:
        raise AssertionError(batch)

    queue = BatchQueue(work, max_queued=2, batch_size=2)
    assert queue.put_many([1, 2, 3]) == 1
    assert queue.put_many([4]) == 1
    assert len(queue) == 2
    assert not await queue.flush(0.01)


async def test_a_restarted_loop_goes_on_with_what_is_left() -> None:
    """A batch whose work failed is lost; those behind it are not."""
    done: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        if 1 in batch:
            raise ValueError
        done.append(batch)

    queue = BatchQueue(work, max_queued=10, batch_size=1)
    queue.put_many([1, 2])
    with suppress(ValueError):
        await queue.run()
    loop = asyncio.create_task(queue.run())
    assert await queue.flush(5)
    loop.cancel()
    assert done == [[2]]
