"""Notices callers that hang up while their request waits. Knows ASGI's `receive` and futures; nothing of queues.

Listening to every request would cost a task each, 17 us of the 100 us that a request takes beside the model. Most
are answered within a few milliseconds, so only those that have waited for a tick are listened to.
"""

import asyncio
from typing import Any

from engine.replies import Receive

TICK_S = 0.05  # a hang-up is noticed within two of them


class HangUps:
    """Cancels the future of a request whose caller is gone. Used from the event loop only."""

    def __init__(self) -> None:
        self._fresh: list[tuple[asyncio.Future[Any], Receive]] = []
        self._tick_due = False

    def watch(self, future: asyncio.Future[Any], receive: Receive) -> None:
        """From a tick from now on listen to `receive`, whose next message can only be the end of the caller."""
        self._fresh.append((future, receive))
        if not self._tick_due:
            self._tick_due = True
            future.get_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Listen to those who still wait; the next request starts the next tick."""
        self._tick_due = False
        waiting, self._fresh = self._fresh, []
        for future, receive in waiting:
            if not future.done():
                _listen(future, receive)


def _listen(future: asyncio.Future[Any], receive: Receive) -> None:
    task = asyncio.ensure_future(receive())  # the callbacks below hold it for as long as the future lives
    task.add_done_callback(lambda _: future.cancel())
    future.add_done_callback(lambda _: task.cancel())
