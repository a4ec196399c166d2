"""Long work on threads of its own: tenants take turns, and what is cancelled ends after the step that runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.work_pool import WorkPool


@pytest.fixture
async def pool() -> AsyncIterator[WorkPool]:
    pool = WorkPool(threads=1)
    yield pool
    pool.close()


class Gate:
    """Steps that wait to be let through, and note which have begun and which have run."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ran: list[str] = []
        self._open = threading.Semaphore(0)

    def steps(self, name: str, count: int) -> Iterator[list[str]]:
        for number in range(count):
            self.begun.append(f"{name}{number}")
            self._open.acquire()
            self.ran.append(f"{name}{number}")
            yield [self.ran[-1]]

    def let(self, steps: int) -> None:
        self._open.release(steps)

    async def until_begun(self, steps: int) -> None:
        async with asyncio.timeout(120):
            while len(self.begun) < steps:
                await asyncio.sleep(0.001)


async def test_the_results_of_all_steps_come_in_order(pool: WorkPool) -> None:
    """Empty steps included; a step's own error reaches the caller, and the thread is free for the next."""
    assert await pool.collect("a", iter([[1], [], [2, 3]])) == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        await pool.run("a", lambda: 1 // 0)
    assert await pool.run("a", threading.get_ident) != threading.get_ident()


async def test_tenants_take_turns(pool: WorkPool) -> None:
    """A tenant with three long works and one with a short one: the short one waits for one step of the others."""
    gate = Gate()
    long = [asyncio.create_task(pool.collect("a", gate.steps(name, 5))) for name in "xyz"]
    await asyncio.sleep(0)
    short = asyncio.create_task(pool.collect("b", gate.steps("b", 1)))
    await asyncio.sleep(0)
    gate.let(16)
    assert await short == ["b0"]
    assert gate.ran.index("b0") <= 2
    await asyncio.gather(*long)
    assert len(gate.ran) == 16


async def test_cancelled_work_ends_after_its_step(pool: WorkPool) -> None:
    """The thread is held until that step ends, and then goes to whoever waits."""
    gate = Gate()
    work = asyncio.create_task(pool.collect("a", gate.steps("a", 100)))
    gate.let(3)
    await gate.until_begun(4)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    waiting = asyncio.create_task(pool.run("b", lambda: "b"))
    await asyncio.sleep(0.01)
    assert not waiting.done()  # the fourth step still has the only thread
    gate.let(97)
    assert await waiting == "b"
    assert len(gate.ran) == 4


async def test_work_cancelled_while_it_waits_never_runs(pool: WorkPool) -> None:
    """Also when it is cancelled at the moment of its turn: no thread is lost."""
    gate, ran = Gate(), []
    running = asyncio.create_task(pool.run("a", lambda: next(gate.steps("a", 1))))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(pool.run("b", lambda: ran.append("b"))) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    running.add_done_callback(lambda _: [work.cancel() for work in waiting])
    gate.let(1)
    await asyncio.wait([running, *waiting])
    async with asyncio.timeout(120):
        assert await pool.run("c", lambda: "c") == "c"
        assert await pool.run("c", lambda: "d") == "d"
    assert len(ran) <= 1
