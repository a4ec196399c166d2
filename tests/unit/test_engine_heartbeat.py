"""The heartbeat: what makes an engine not ready, and what ends its process."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from engine.batching.batcher import Batcher
from engine.batching.heartbeat import EXIT_HUNG, Heartbeat
from engine.errors import DeadlineExceeded, EngineFailed
from engine.protocol import Float32Array, Int32Array
from tests.fake_time import Time
from tests.unit.test_batcher import DIMENSIONS, PATIENCE_S, NoObserver, bounds

TEXT = np.array([1, 2, 3], np.int32)


async def beating(
    run: Callable[..., Any], scenario: Callable[[Batcher, Heartbeat, "asyncio.Future[int]"], Any], **changes: Any
) -> None:
    batcher = Batcher([run], DIMENSIONS, bounds(**changes), NoObserver())
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


async def test_a_long_text_on_the_only_worker_is_neither_a_hang_nor_unready() -> None:
    """It takes longer than `hang_s` and many intervals, and its length allows for that."""
    gate = threading.Event()

    def slow_when_long(texts: Sequence[Int32Array]) -> Float32Array:
        if len(texts[0]) > len(TEXT):
            gate.wait(PATIENCE_S)
        return working(texts)

    async def scenario(batcher: Batcher, heartbeat: Heartbeat, exited: "asyncio.Future[int]") -> None:
        await until_fault(heartbeat, None)
        long = batcher.submit([np.ones(60, np.int32)])
        for _ in range(100):
            await asyncio.sleep(0.003)
            assert heartbeat.fault() is None
        assert not exited.done()
        assert not long.done()
        gate.set()
        await long
        await until_fault(heartbeat, None)

    await beating(slow_when_long, scenario, double_cost_tokens=0.1)  # 360 s


class BusyBatcher:
    """Every worker runs a batch that may last until `free_s`; a test inference waits, fails or passes by `outcome`."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.free_s = 0.0
        self.outcome: Exception | None = None
        self.limits_s: list[float] = []

    def late_s(self, now_s: float) -> float:
        return max(0.0, now_s - self.free_s) if self.free_s else 0.0

    def busy_s(self, now_s: float) -> float:
        return max(0.0, self.free_s - now_s)

    def health_probe(self, text: Int32Array, deadline_s: float) -> "asyncio.Future[Float32Array]":
        self.limits_s.append(deadline_s)
        future: asyncio.Future[Float32Array] = asyncio.get_running_loop().create_future()
        if self.outcome is None:
            future.set_result(working([text]))
        else:
            if isinstance(self.outcome, DeadlineExceeded):
                self.time.now += deadline_s
            future.set_exception(self.outcome)
        return future


def busy_heartbeat() -> tuple[Time, BusyBatcher, Heartbeat]:
    time = Time()
    batcher = BusyBatcher(time)
    heartbeat = Heartbeat(batcher, TEXT, 5.0, 60.0, clock=time.clock)  # type: ignore[arg-type]
    heartbeat._opened_s = time.now
    return time, batcher, heartbeat


async def test_a_run_that_outlives_its_time_makes_the_engine_unready_and_then_ends_it() -> None:
    """Of 240 s it is unready three intervals after them, and hung `hang_s` after them."""
    time, batcher, heartbeat = busy_heartbeat()
    assert await heartbeat.beat()
    batcher.free_s = time.now + 240
    batcher.outcome = DeadlineExceeded("late")
    assert not await heartbeat.beat()
    assert batcher.limits_s == [15, 255]
    time.now = batcher.free_s + 14
    assert heartbeat.fault() is None
    time.now = batcher.free_s + 16
    assert "the last test inference passed 256.0 s ago" in (heartbeat.fault() or "")
    assert not await heartbeat.beat()  # nothing more is allowed for once it is late
    assert batcher.limits_s[-1] == 15
    assert heartbeat._hung() is None
    time.now = batcher.free_s + 61
    assert "a run has not ended 60 s after it should have" in (heartbeat._hung() or "")


async def test_a_model_that_fails_between_long_runs_is_found_all_the_same() -> None:
    """Busy workers excuse a test inference that waits, and none that ran and failed."""
    time, batcher, heartbeat = busy_heartbeat()
    assert await heartbeat.beat()
    batcher.outcome = EngineFailed("sticky")
    for _ in range(12):
        batcher.free_s = time.now + 100
        assert not await heartbeat.beat()
        time.now += 20
    assert "no test inference has passed" in (heartbeat._hung() or "")
