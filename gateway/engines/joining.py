"""Small calls of a moment travel to the engine together: one request there instead of many.

A call that finds room is sent at once, so a lone one waits for nothing. Room is one call for each run of the model that
an engine has side by side, and one more that waits there. While there is none, calls collect; they are sent when a call
comes back, when they fill a batch, or after WAIT_S. What an engine computes and how fast does not depend on it: it
batches texts whoever sent them, so all that is saved is HTTP, which for a text of a dozen tokens costs a fifth of its
time. Lanes collect apart.

A caller that leaves takes its texts out; where all have left, their call is cancelled. A joint call that the engine
refuses, or fails on, is sent again caller by caller, so that none fails because of another's text;
one that ends its engine is the exception: there all of that call get the error.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from engine.protocol import Float32Array, Lane
from gateway.engines.connection import Call
from gateway.errors import BadRequest, DeadlineExceeded, EngineFailed, GatewayError
from gateway.metrics import JOINED_CALLS, JOINED_REQUESTS

JOINT_TOKENS: Final = 1024  # what an engine on a CPU computes in one run
JOINT_TEXTS: Final = 64
SMALL_TOKENS: Final = JOINT_TOKENS // 2  # a larger call has little to save, and goes alone
SMALL_TEXTS: Final = JOINT_TEXTS // 2
WAIT_S: Final = 0.005

Send = Callable[[Call], Awaitable[Float32Array]]


@dataclass(eq=False, slots=True)
class _Waiter:
    """A caller whose texts wait, or are on their way with others'."""

    call: Call
    future: "asyncio.Future[Float32Array]"
    group: "_Group | None" = None


@dataclass(eq=False, slots=True)
class _Group:
    """Callers whose texts travel together."""

    waiters: list[_Waiter]
    left: int
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class _Queue:
    """Callers of one fingerprint and lane that wait for room."""

    waiters: deque[_Waiter] = field(default_factory=deque)
    tokens: int = 0
    texts: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        return self.tokens >= JOINT_TOKENS or self.texts >= JOINT_TEXTS

    def add(self, waiter: _Waiter) -> None:
        self.waiters.append(waiter)
        self.tokens += waiter.call.tokens
        self.texts += len(waiter.call.texts)

    def remove(self, waiter: _Waiter) -> None:
        self.waiters.remove(waiter)
        self.tokens -= waiter.call.tokens
        self.texts -= len(waiter.call.texts)

    def take(self) -> list[_Waiter]:
        """The longest waiting, as many as fit into one call."""
        taken: list[_Waiter] = []
        tokens = texts = 0
        while self.waiters:
            call = self.waiters[0].call
            tokens, texts = tokens + call.tokens, texts + len(call.texts)
            if taken and (tokens > JOINT_TOKENS or texts > JOINT_TEXTS):
                break
            waiter = self.waiters[0]
            self.remove(waiter)
            taken.append(waiter)
        return taken


class Joiner:
    """Sends calls by `send`, small ones together; `room` is how many of them the engines keep busy with at a time."""

    def __init__(self, send: Send, room: Callable[[Call], int]) -> None:
        self._send = send
        self._room = room
        self._under_way: dict[tuple[str, Lane], int] = {}
        self._queues: dict[tuple[str, Lane], _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> Float32Array:
        """The vectors of a call, alone or with others'. Raises what `send` raises for it, and DeadlineExceeded."""
        if call.tokens > SMALL_TOKENS or len(call.texts) > SMALL_TEXTS:
            return await self._send(call)
        key = (call.fingerprint, call.lane)
        if key in self._queues or not self._has_room(key, call):
            return await self._wait(key, call)
        self._begin(key)
        try:
            return await self._send(call)
        finally:
            self._end(key)

    def _has_room(self, key: tuple[str, Lane], call: Call) -> bool:
        under_way = self._under_way.get(key, 0)
        return not under_way or under_way < self._room(call)

    def _begin(self, key: tuple[str, Lane]) -> None:
        self._under_way[key] = self._under_way.get(key, 0) + 1

    def _end(self, key: tuple[str, Lane]) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]
        self._pump(key)

    async def _wait(self, key: tuple[str, Lane], call: Call) -> Float32Array:
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(key, _Queue())
        waiter = _Waiter(call, loop.create_future())
        queue.add(waiter)
        if queue.timer is None:
            queue.timer = loop.call_later(WAIT_S, self._send_now, key)
        self._pump(key)
        late = loop.call_at(call.deadline, _fail_late, waiter)  # a third of what `asyncio.timeout` costs
        try:
            return await waiter.future
        finally:
            late.cancel()
            self._leave(key, waiter)

    def _leave(self, key: tuple[str, Lane], waiter: _Waiter) -> None:
        """Its answer is there, or it no longer waits for one."""
        group = waiter.group
        if group is None:
            if (queue := self._queues.get(key)) is not None and waiter in queue.waiters:
                queue.remove(waiter)
                self._drop_if_empty(key, queue)
            return
        group.left -= 1
        if group.left == 0 and group.task is not None:
            group.task.cancel()

    def _pump(self, key: tuple[str, Lane]) -> None:
        """Send what waits, as far as there is room or a batch is full."""
        while (queue := self._queues.get(key)) is not None:
            if not queue.is_full and not self._has_room(key, queue.waiters[0].call):
                return
            self._send_group(key, queue)

    def _send_now(self, key: tuple[str, Lane]) -> None:
        if (queue := self._queues.get(key)) is not None:
            queue.timer = None
            self._send_group(key, queue)

    def _send_group(self, key: tuple[str, Lane], queue: _Queue) -> None:
        waiters = queue.take()
        self._drop_if_empty(key, queue)
        group = _Group(waiters, len(waiters))
        for waiter in waiters:
            waiter.group = group
        if len(waiters) > 1:
            JOINED_CALLS.inc()
            JOINED_REQUESTS.inc(len(waiters))
        self._begin(key)
        group.task = asyncio.create_task(self._answer(waiters))
        self._tasks.add(group.task)
        group.task.add_done_callback(partial(self._back, key))

    def _back(self, key: tuple[str, Lane], task: "asyncio.Task[None]") -> None:
        """A group's call has ended; also one that was cancelled before it began."""
        self._tasks.discard(task)
        self._end(key)

    def _drop_if_empty(self, key: tuple[str, Lane], queue: _Queue) -> None:
        if queue.waiters:
            if queue.timer is None:
                queue.timer = asyncio.get_running_loop().call_later(WAIT_S, self._send_now, key)
            return
        if queue.timer is not None:
            queue.timer.cancel()
        del self._queues[key]

    async def _answer(self, waiters: Sequence[_Waiter]) -> None:
        """One call for all, or one for each where that is refused; every waiter's future ends."""
        try:
            vectors = await self._send(_joint(waiters))
        except Exception as error:
            if len(waiters) > 1 and isinstance(error, (BadRequest, EngineFailed)):
                await asyncio.gather(*(self._answer([waiter]) for waiter in waiters if not waiter.future.done()))
                return
            for waiter in waiters:
                _fail(waiter, error)
            return
        start = 0
        for waiter in waiters:
            end = start + len(waiter.call.texts)
            if not waiter.future.done():
                waiter.future.set_result(vectors[start:end])
            start = end


def _joint(waiters: Sequence[_Waiter]) -> Call:
    """All their texts in one call, with the latest of their deadlines."""
    first = waiters[0].call
    if len(waiters) == 1:
        return first
    return replace(
        first,
        texts=[text for waiter in waiters for text in waiter.call.texts],
        tokens=sum(waiter.call.tokens for waiter in waiters),
        deadline=max(waiter.call.deadline for waiter in waiters),
    )


def _fail_late(waiter: _Waiter) -> None:
    _fail(waiter, DeadlineExceeded("the engine did not answer within the request's deadline"))


def _fail(waiter: _Waiter, error: Exception) -> None:
    """Each waiter gets an error of its own: what is raised in several places collects their traces."""
    if not waiter.future.done():
        waiter.future.set_exception(copy.copy(error) if isinstance(error, GatewayError) else error)
