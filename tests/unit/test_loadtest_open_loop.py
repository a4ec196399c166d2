"""The open loop on a clock of its own: arrivals wait for nobody, and latency counts from when they were due."""

import asyncio
from collections.abc import Iterable

from loadtest.client import Answer, RequestFailed
from loadtest.open_loop import OpenLoop, Sample, precise_loop
from loadtest.workload import Arrival

ANSWER = Answer(vectors=[], tier="miss", tiers=[], tokens=0)


class FakeTime:
    """A clock that sleeping advances; everything ready runs before time moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: list[tuple[float, asyncio.Event]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Sleep in fake time."""
        alarm = asyncio.Event()
        self._alarms.append((self.now + seconds, alarm))
        await alarm.wait()

    async def advance(self) -> None:
        """Ring the alarms in their order, for as long as somebody sleeps."""
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            if not self._alarms:
                return
            self._alarms.sort(key=lambda entry: entry[0])
            when, alarm = self._alarms.pop(0)
            self.now = max(self.now, when)
            alarm.set()


def plan(*due_s: float) -> list[Arrival]:
    """Arrivals at these times."""
    return [Arrival(due, ["text"]) for due in due_s]


async def play(
    arrivals: Iterable[Arrival], service_s: float, max_in_flight: int = 100, stop_after: int | None = None
) -> tuple[OpenLoop, list[Sample]]:
    """Run a loop whose every request takes `service_s` of fake time."""
    time = FakeTime()
    samples: list[Sample] = []

    async def send(_arrival: Arrival) -> Answer:
        if stop_after is not None and loop.sent >= stop_after:
            loop.stop()
        await time.sleep(service_s)
        return ANSWER

    loop = OpenLoop(
        send,
        max_in_flight,
        clock=time.clock,
        sleep=time.sleep,
        on_sample=lambda _arrival, sample: samples.append(sample),
    )
    running = asyncio.create_task(loop.run(arrivals))
    await time.advance()
    await running
    return loop, samples


async def test_arrivals_do_not_wait_for_answers() -> None:
    """Requests due every second are sent every second although each takes ten."""
    loop, samples = await play(plan(0, 1, 2, 3), service_s=10)
    assert loop.sent == 4
    assert [sample.latency_s for sample in samples] == [10, 10, 10, 10]
    assert [sample.lag_s for sample in samples] == [0, 0, 0, 0]


async def test_arrivals_beyond_the_bound_are_dropped_and_counted() -> None:
    """With two in flight allowed, the third and fourth arrival are dropped, the one after the answers is sent."""
    loop, samples = await play(plan(0, 1, 2, 3, 20), service_s=10, max_in_flight=2)
    assert loop.dropped == [2, 3]
    assert sorted(sample.due_s for sample in samples) == [0, 1, 20]
    assert loop.in_flight == 0


async def test_a_late_generator_shows_in_lag_and_latency() -> None:
    """When an arrival could only be sent late, its wait counts as latency and is told as lag."""
    time = FakeTime()
    samples: list[Sample] = []

    async def send(_arrival: Arrival) -> Answer:
        return ANSWER

    async def oversleep(seconds: float) -> None:
        await time.sleep(seconds + 2)

    loop = OpenLoop(
        send, 10, clock=time.clock, sleep=oversleep, on_sample=lambda _arrival, sample: samples.append(sample)
    )
    running = asyncio.create_task(loop.run(plan(1)))
    await time.advance()
    await running
    assert (samples[0].lag_s, samples[0].latency_s) == (2, 2)


async def test_failures_are_samples() -> None:
    """A failed request is a sample with its kind, and ends nothing."""
    samples: list[Sample] = []

    async def send(arrival: Arrival) -> Answer:
        if arrival.due_s == 0:
            raise RequestFailed("503 overloaded")
        return ANSWER

    loop = OpenLoop(send, 10, on_sample=lambda _arrival, sample: samples.append(sample))
    await loop.run(plan(0, 0.001))
    assert [sample.error for sample in samples] == ["503 overloaded", None]


async def test_stop_sends_nothing_more_and_waits_for_the_rest() -> None:
    """After `stop` what is in flight still ends in a sample."""
    loop, samples = await play(plan(0, 1, 2, 3), service_s=10, stop_after=2)
    assert loop.sent == 2
    assert len(samples) == 2


def test_precise_loop_runs_timers_and_sockets() -> None:
    """The loop with exact timers is a whole event loop."""

    async def talk() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await asyncio.sleep(0.001)
            writer.write(b"hello\n")
            heard = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return heard

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        assert runner.run(talk()) == b"HELLO\n"
