"""The heartbeat: what makes an engine not ready, and what ends its process."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.batching.batcher import Batcher
from engine.batching.heartbeat import EXIT_HUNG, Heartbeat
from engine.errors import EngineFailed
from engine.protocol import Float32Array, Int32Array
from tests.unit.test_batcher import DIMENSIONS, PATIENCE_S, NoObserver, bounds

TEXT = np.array([1, 2, 3], np.int32)


async def beating(
    run: Callable[..., Any], scenario: Callable[[Batcher, Heartbeat, "asyncio.Future[int]"], Any]
) -> None:
    batcher = Batcher([run], DIMENSIONS, bounds(), NoObserver())
    batcher.open()
    exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    heartbeat = Heartbeat(batcher, TEXT, interval_s=0.005, hang_s=0.1, exit_process=exited.set_result)
    task = asyncio.create_task(heartbeat.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scenario(batcher, heartbeat, exited)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        batcher.close()


def working(texts: Sequence[Int32Array]) -> Float32Array:
    return np.ones((len(texts), DIMENSIONS), np.float32)


async def until_fault(heartbeat: Heartbeat, part: str | None) -> None:
    while (fault := heartbeat.fault()) is not part and (part is None or part not in (fault or "")):
        await asyncio.sleep(0.002)


async def test_ready_once_a_test_inference_passed() -> None:
    """No fault after the first pass, and a fault from the moment the process drains."""

    async def scenario(_: Batcher, heartbeat: Heartbeat, exited: "asyncio.Future[int]") -> None:
        await until_fault(heartbeat, None)
        heartbeat.drain()
        assert "shutting down" in (heartbeat.fault() or "")
        assert not exited.done()

    await beating(working, scenario)


async def test_another_vector_than_at_start_is_a_fault() -> None:
    """A model that answers, but wrongly, is not ready."""
    scale = [1.0]

    async def scenario(_: Batcher, heartbeat: Heartbeat, exited: "asyncio.Future[int]") -> None:
        await until_fault(heartbeat, None)
        scale[0] = 0.5
        await until_fault(heartbeat, "test inference")

    await beating(lambda texts: working(texts) * np.float32(scale[0]), scenario)


async def test_a_hung_run_is_answered_for_and_ends_the_process() -> None:
    """Waiters get EngineFailed, new requests too, and the process exits with 70."""
    gate = threading.Event()

    def hanging(texts: Sequence[Int32Array]) -> Float32Array:
        gate.wait(PATIENCE_S)
        return working(texts)

    async def scenario(batcher: Batcher, heartbeat: Heartbeat, exited: "asyncio.Future[int]") -> None:
        waiting = batcher.submit([TEXT])
        with pytest.raises(EngineFailed):
            await waiting
        assert "has not ended" in (heartbeat.fault() or "")
        with pytest.raises(EngineFailed):
            batcher.submit([TEXT])
        assert await exited == EXIT_HUNG
        gate.set()

    await beating(hanging, scenario)


async def test_a_model_that_only_fails_ends_the_process() -> None:
    """When no test inference passes for long enough, a fresh process is the cure, too."""

    def failing(_: Sequence[Int32Array]) -> Float32Array:
        raise RuntimeError("sticky device error")

    async def scenario(_: Batcher, __: Heartbeat, exited: "asyncio.Future[int]") -> None:
        assert await exited == EXIT_HUNG

    await beating(failing, scenario)
