"""Single-flight: one computation a key, and nobody fails or dies for another's sake."""

import asyncio

import pytest

from gateway.singleflight import SingleFlight


class Work:
    """Computations that wait for a gate, and a record of what was asked."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.asked: list[list[str]] = []
        self.cancelled = 0

    async def compute(self, keys: list[str]) -> dict[str, str]:
        self.asked.append(keys)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {key: key.upper() for key in keys}


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_overlapping_requests_compute_each_key_once() -> None:
    """The second request computes only what the first does not."""
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flights.run(["a", "b"], work.compute))
    await soon()
    second = asyncio.create_task(flights.run(["b", "c"], work.compute))
    await soon()
    work.gate.set()
    assert await first == {"a": "A", "b": "B"}
    assert {key: value for key, value in (await second).items() if key in "bc"} == {"b": "B", "c": "C"}
    assert work.asked == [["a", "b"], ["c"]]
    assert len(flights) == 0


async def test_cancelled_leader_leaves_the_work_to_its_follower() -> None:
    """The computation goes on while anybody waits for it."""
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    leader = asyncio.create_task(flights.run(["a"], work.compute))
    await soon()
    follower = asyncio.create_task(flights.run(["a"], work.compute))
    await soon()
    leader.cancel()
    await soon()
    work.gate.set()
    assert await follower == {"a": "A"}
    assert (work.cancelled, len(work.asked)) == (0, 1)


async def test_work_nobody_waits_for_is_cancelled() -> None:
    """When the last one leaves, the computation is cancelled and forgotten; the next asker starts a new one."""
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    only = asyncio.create_task(flights.run(["a"], work.compute))
    await soon()
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    await soon()
    assert (work.cancelled, len(flights)) == (1, 0)
    work.gate.set()
    assert await flights.run(["a"], work.compute) == {"a": "A"}


async def test_follower_does_not_fail_with_its_leader() -> None:
    """A leader's failure (its deadline, its size) is its own; the follower computes for itself."""
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()

    async def fail(keys: list[str]) -> dict[str, str]:
        await work.gate.wait()
        raise ValueError("too large")

    leader = asyncio.create_task(flights.run(["a"], fail))
    await soon()
    follower = asyncio.create_task(flights.run(["a"], work.compute))
    await soon()
    work.gate.set()
    with pytest.raises(ValueError, match="too large"):
        await leader
    assert await follower == {"a": "A"}


async def test_a_thousand_waiters_fail_together() -> None:
    """When a computation fails, its waiters do not fail one after another, each waking all the others."""
    flights: SingleFlight[str, int] = SingleFlight()
    running = most = 0

    async def compute(keys: list[str]) -> dict[str, int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        raise ValueError

    outcomes = await asyncio.gather(*(flights.run(["a"], compute) for _ in range(1000)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ValueError}
    assert most > 900
    assert len(flights) == 0
