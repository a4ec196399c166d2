"""Background tasks end, whatever a library makes of their cancellation."""

import asyncio

from common.tasks import cancel_and_wait
from gateway.background import keep_running


async def test_a_task_that_swallows_one_cancellation_ends(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """It is cancelled again."""
    monkeypatch.setattr("common.tasks.AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 2:
                    raise

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    async with asyncio.timeout(120):
        await cancel_and_wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert swallowed == 3


async def test_what_a_task_raises_at_its_end_is_dropped() -> None:
    """An end in error is an end."""

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("at the end") from None

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await cancel_and_wait([task])
    assert task.done()


async def test_a_loop_whose_cancellation_became_an_error_is_not_started_again() -> None:
    """Only faults start it again."""

    async def loop() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("hidden") from None

    task = asyncio.create_task(keep_running(loop))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(120):
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
