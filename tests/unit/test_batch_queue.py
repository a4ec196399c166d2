"""A bounded queue worked off in batches."""

import asyncio
from contextlib import suppress

import pytest

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


async def test_items_of_a_moment_share_a_batch_which_a_flush_ends() -> None:
    """What comes while the loop waits for more goes together; a flush waits for nothing."""
    batches: list[list[int]] = []

    async def work(batch: list[int]) -> None:
        batches.append(batch)

    queue = BatchQueue(work, max_queued=10, batch_size=5, gather_s=3600)
    loop = asyncio.create_task(queue.run())
    for number in range(3):
        queue.put_many([number])
        await asyncio.sleep(0.01)
    assert batches == []
    assert await queue.flush(30)
    queue.put_many([3])
    assert await queue.flush(30)
    loop.cancel()
    assert batches == [[0, 1, 2], [3]]


@pytest.mark.parametrize(("gather_s", "count"), [(3600.0, 2), (3600.0, 4), (0.01, 1)])
async def test_a_full_batch_and_what_has_waited_long_enough_are_worked_off(gather_s: float, count: int) -> None:
    """With nobody who flushes."""
    done: list[int] = []
    all_done = asyncio.Event()

    async def work(batch: list[int]) -> None:
        done.extend(batch)
        if len(done) == count:
            all_done.set()

    queue = BatchQueue(work, max_queued=10, batch_size=2, gather_s=gather_s)
    loop = asyncio.create_task(queue.run())
    await asyncio.sleep(0)
    queue.put_many(range(count))
    async with asyncio.timeout(30):
        await all_done.wait()
    loop.cancel()


async def test_there_is_no_wait_while_one_flushes() -> None:
    """Also for what is queued after the flush began."""

    async def work(batch: list[int]) -> None:
        if batch == [1]:
            queue.put_many([2])

    queue = BatchQueue(work, max_queued=10, batch_size=5, gather_s=3600)
    queue.put_many([1])
    loop = asyncio.create_task(queue.run())
    assert await queue.flush(30)
    loop.cancel()
