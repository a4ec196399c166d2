"""Small calls of a moment travel together; nobody waits long, fails or is cancelled because of another."""

import asyncio
from array import array
from collections.abc import Sequence

import numpy as np
import pytest

from engine.protocol import Float32Array, Lane
from engine.text_encoder import EncodedText
from gateway.engines.connection import Call
from gateway.engines.joining import JOINT_TEXTS, JOINT_TOKENS, SMALL_TEXTS, Joiner
from gateway.errors import BadRequest, DeadlineExceeded, EngineAway, EngineFailed, GatewayError, ModelChanged

BAD = 13


def text(number: int, tokens: int = 4) -> EncodedText:
    """A text of one number, again and again."""
    return EncodedText(array("i", [number] * tokens).tobytes(), tokens, truncated=False)


def call(*numbers: int, lane: Lane = Lane.INTERACTIVE, deadline_s: float = 30, tokens: int = 4) -> Call:
    """Texts that one caller wants the vectors of."""
    deadline = asyncio.get_running_loop().time() + deadline_s
    return Call("f" * 32, 1, [text(number, tokens) for number in numbers], lane, deadline, tokens * len(numbers))


def numbers_of(sent: Call) -> list[int]:
    """The number of each text of a call."""
    return [int(np.frombuffer(one.input_ids, np.int32)[0]) for one in sent.texts]


class Engine:
    """Answers each text by its number once `gate` is open; fails calls that hold BAD with `error`, if there is one."""

    def __init__(self, error: Exception | None = None, room: int = 1) -> None:
        self.calls: list[Call] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error = error
        self.joiner = Joiner(self.send, lambda _: room)

    @property
    def sent(self) -> list[list[int]]:
        return [numbers_of(one) for one in self.calls]

    async def send(self, sent: Call) -> Float32Array:
        self.calls.append(sent)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None and BAD in numbers_of(sent):
            raise self.error
        return np.array(numbers_of(sent), np.float32).reshape(-1, 1)

    def ask(self, *numbers: int, lane: Lane = Lane.INTERACTIVE, deadline_s: float = 30) -> "asyncio.Task[Float32Array]":
        return asyncio.create_task(self.joiner.run(call(*numbers, lane=lane, deadline_s=deadline_s)))


async def turns(count: int = 10) -> None:
    """Let what is ready run; no time passes that the joiner could act on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def values(tasks: Sequence["asyncio.Task[Float32Array]"]) -> list[object]:
    """What each caller got: numbers, or an error's class."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(one) if isinstance(one, BaseException) else one.ravel().tolist() for one in outcomes]


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest wait never passes."""
    monkeypatch.setattr("gateway.engines.joining.WAIT_S", 1000.0)


async def test_lone_call_is_sent_at_once() -> None:
    """Where nothing is under way a call is on its way before it has let anything else run."""
    engine = Engine()
    engine.gate.set()
    assert (await engine.joiner.run(call(1))).tolist() == [[1]]
    assert engine.sent == [[1]]


@pytest.mark.usefixtures("no_timer")
async def test_what_comes_while_a_call_is_under_way_travels_together() -> None:
    """Calls collect until one comes back, then go as one; each caller gets its own vectors."""
    engine = Engine()
    tasks = [engine.ask(1)]
    await turns()
    tasks += [engine.ask(2), engine.ask(3, 4), engine.ask(5)]
    await turns()
    assert engine.sent == [[1]]
    engine.gate.set()
    assert await values(tasks) == [[1], [2], [3, 4], [5]]
    assert engine.sent == [[1], [2, 3, 4, 5]]


async def test_nothing_waits_long_for_a_call_that_does_not_come_back() -> None:
    """After a few milliseconds what has collected is sent, whatever is under way."""
    engine = Engine()
    tasks = [engine.ask(1)]
    await turns()
    tasks += [engine.ask(2), engine.ask(3)]
    async with asyncio.timeout(120):
        while len(engine.calls) < 2:
            await asyncio.sleep(0.001)
    assert engine.sent == [[1], [2, 3]]
    engine.gate.set()
    assert await values(tasks) == [[1], [2], [3]]


@pytest.mark.usefixtures("no_timer")
async def test_full_batch_does_not_wait() -> None:
    """Calls that fill a batch go although others are under way; no joint call is larger than its bounds."""
    engine = Engine()
    tasks = [engine.ask(0)]
    await turns()
    tasks += [engine.ask(*range(number, number + 10)) for number in range(10, 210, 10)]
    await turns()
    assert len(engine.calls) == 1 + 200 // JOINT_TEXTS
    engine.gate.set()
    await values(tasks)
    assert all(len(one.texts) <= JOINT_TEXTS and one.tokens <= JOINT_TOKENS for one in engine.calls)
    assert sorted(number for numbers in engine.sent for number in numbers) == [0, *range(10, 210)]


async def test_large_calls_go_alone_at_once() -> None:
    """A call with little to save waits for nothing, and nothing waits for it."""
    engine = Engine()
    tasks = [engine.ask(1)]
    await turns()
    tasks.append(engine.ask(*range(100, 101 + SMALL_TEXTS)))
    await turns()
    assert len(engine.calls) == 2
    engine.gate.set()
    await values(tasks)


@pytest.mark.usefixtures("no_timer")
async def test_lanes_do_not_wait_for_each_other() -> None:
    """A bulk call under way does not hold an interactive one back, and they never share a call."""
    engine = Engine()
    tasks = [engine.ask(1, lane=Lane.BULK)]
    await turns()
    tasks += [engine.ask(2, lane=Lane.BULK), engine.ask(3)]
    await turns()
    assert engine.sent == [[1], [3]]
    engine.gate.set()
    assert await values(tasks) == [[1], [2], [3]]
    assert [one.lane for one in engine.calls] == [Lane.BULK, Lane.INTERACTIVE, Lane.BULK]


@pytest.mark.usefixtures("no_timer")
@pytest.mark.parametrize("error", [BadRequest("too long"), EngineFailed("not finite")])
async def test_one_callers_text_fails_that_caller_alone(error: GatewayError) -> None:
    """A joint call that is refused, or that the engine fails on, is sent again caller by caller."""
    engine = Engine(error)
    tasks = [engine.ask(1)]
    await turns()
    tasks += [engine.ask(2), engine.ask(BAD), engine.ask(3)]
    engine.gate.set()
    assert await values(tasks) == [[1], [2], type(error), [3]]


@pytest.mark.usefixtures("no_timer")
@pytest.mark.parametrize("error", [EngineAway("gone", retry_after_s=3), ModelChanged()])
async def test_other_errors_reach_each_waiter(error: Exception) -> None:
    """An engine that is away is so for all of them, at once, with what the error says."""
    engine = Engine(error)
    tasks = [engine.ask(1)]
    await turns()
    tasks += [engine.ask(2), engine.ask(BAD)]
    engine.gate.set()
    assert await values(tasks) == [[1], type(error), type(error)]
    assert len(engine.calls) == 2
    if isinstance(error, GatewayError):
        raised = tasks[1].exception()
        assert isinstance(raised, EngineAway)
        assert raised is not error
        assert raised.retry_after_s == 3


@pytest.mark.usefixtures("no_timer")
async def test_waiter_that_leaves_takes_its_texts_out() -> None:
    """Cancelled before its call is sent, a caller's texts cost nothing, and the others' are sent."""
    engine = Engine()
    first = engine.ask(1)
    await turns()
    leaving, staying = engine.ask(2), engine.ask(3)
    await turns()
    leaving.cancel()
    await turns()
    engine.gate.set()
    assert await values([first, staying]) == [[1], [3]]
    assert engine.sent == [[1], [3]]


@pytest.mark.usefixtures("no_timer")
async def test_joint_call_is_cancelled_when_all_have_left_and_not_before() -> None:
    """One that leaves under way does not end the others' call; the last one does."""
    engine = Engine(room=2)
    first = engine.ask(1)
    await turns()
    second = engine.ask(2)
    await turns()
    waiting = [engine.ask(3), engine.ask(4)]
    await turns()
    first.cancel()
    await turns()
    assert engine.sent == [[1], [2], [3, 4]]
    waiting[0].cancel()
    await turns()
    assert engine.cancelled == 1
    waiting[1].cancel()
    await turns()
    assert engine.cancelled == 2
    engine.gate.set()
    assert await values([second]) == [[2]]
    assert not engine.joiner._queues
    assert not engine.joiner._under_way


@pytest.mark.usefixtures("no_timer")
async def test_each_waiter_has_its_own_deadline() -> None:
    """The impatient one gets its error at its own deadline; the joint call goes on for the others until theirs."""
    engine = Engine()
    tasks = [engine.ask(1)]
    await turns()
    tasks += [engine.ask(2, deadline_s=30), engine.ask(3, deadline_s=0.2)]
    await turns()
    tasks[0].cancel()
    await turns()
    assert engine.sent == [[1], [2, 3]]
    assert engine.calls[1].deadline > asyncio.get_running_loop().time() + 10
    with pytest.raises(DeadlineExceeded):
        await tasks[2]
    engine.gate.set()
    assert await values(tasks[1:2]) == [[2]]


async def test_a_flood_with_cancellations_loses_nothing() -> None:
    """Whoever stays gets its own vectors, whatever the others do; nothing is left behind."""
    engine = Engine(EngineFailed("poison"), room=2)
    engine.gate.set()
    random = np.random.default_rng(3)
    tasks = []
    for number in range(600):
        tasks.append(engine.ask(BAD if number % 50 == 7 else 1000 + number))
        if random.random() < 0.2:
            tasks[int(random.integers(len(tasks)))].cancel()
        if random.random() < 0.1:
            await turns(int(random.integers(1, 8)))
    outcomes = await values(tasks)
    for number, outcome in enumerate(outcomes):
        own = EngineFailed if number % 50 == 7 else [1000 + number]
        assert outcome in (own, asyncio.CancelledError)
    assert outcomes.count(asyncio.CancelledError) < 200
    await turns()
    assert not engine.joiner._queues
    assert not engine.joiner._under_way
    assert not engine.joiner._tasks
