"""Whether the model still answers: a real inference at intervals, and an end to a process whose run has hung.

A thread stuck inside a graph cannot be stopped from Python, and a device in a sticky error stays in it. So when
a run is late by `hang_s`, or no test inference has passed for that long, all waiters get `EngineFailed`, `/ready`
turns 503, and the process exits with EXIT_HUNG (70): its supervisor starts a fresh one, which is the only remedy.

A run is late when it has taken several times what its texts' lengths allow for (`Batcher.late_s`). A test inference
goes ahead of the queue but interrupts no run: while all workers compute long texts and none is late, it may wait.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable

import numpy as np

from engine.batching.batcher import Batcher
from engine.errors import DeadlineExceeded, EngineError, EngineFailed
from engine.protocol import Float32Array, Int32Array

logger = logging.getLogger(__name__)

EXIT_HUNG = 70  # EX_SOFTWARE
EXIT_GRACE_S = 0.5  # to send the last answers
INTERVALS_UNTIL_UNREADY = 3
TOLERANCE = 1e-3  # vectors repeat to the bit; a device that computes others by so little is not broken


class Heartbeat:
    """Runs `text` through the batcher every `interval_s`, ahead of the queue, and expects one vector."""

    def __init__(
        self,
        batcher: Batcher,
        text: Int32Array,
        interval_s: float,
        hang_s: float,
        exit_process: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batcher = batcher
        self._text = text
        self._interval_s = interval_s
        self._hang_s = hang_s
        self._exit_process = exit_process
        self._clock = clock
        self._expected: Float32Array | None = None
        self._opened_s = math.inf
        self._passed_s: float | None = None  # on the clock
        self._may_wait_until_s = -math.inf  # a worker is free by then, unless its run is late
        self._failed = False  # the last test inference ran, and badly: that workers are busy is no excuse any more
        self._draining = False

    async def run(self) -> None:
        """Beat and watch until cancelled."""
        self._opened_s = self._clock()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_forever(), name="heartbeat")
            tasks.create_task(self._watch_forever(), name="hang-watch")

    def drain(self) -> None:
        """Not ready from now on: the process is shutting down."""
        self._draining = True

    def fault(self) -> str | None:
        """Why the engine is not ready, or None when it is."""
        if self._draining:
            return "the engine is shutting down"
        if (hung := self._hung()) is not None:
            return hung
        if self._passed_s is None:
            return "no test inference has passed yet"
        now_s = self._clock()
        if now_s - max(self._passed_s, self._may_wait_until_s) > INTERVALS_UNTIL_UNREADY * self._interval_s:
            return f"the last test inference passed {now_s - self._passed_s:.1f} s ago"
        return None

    async def beat(self) -> bool:
        """One test inference; True if it passed."""
        wait_s = self._batcher.busy_s(now_s := self._clock())
        if wait_s > 0 and not self._failed:
            self._may_wait_until_s = max(self._may_wait_until_s, now_s + wait_s)
        try:
            limit_s = wait_s + INTERVALS_UNTIL_UNREADY * self._interval_s
            vector = (await self._batcher.health_probe(self._text, limit_s))[0]
        except DeadlineExceeded:
            logger.warning("test inference failed: it was not computed within %.0f s", limit_s)
            return False
        except EngineError as error:
            logger.warning("test inference failed: %s", error)
            self._failed = True
            return False
        except Exception:  # a heartbeat that ended with a bug of ours would never end the process
            logger.exception("test inference failed with an unexpected error")
            return False
        if self._expected is None:
            self._expected = vector
        if not np.allclose(vector, self._expected, rtol=0, atol=TOLERANCE):
            logger.error("test inference gave another vector than at start")
            self._failed = True
            return False
        self._passed_s, self._failed = self._clock(), False
        return True

    async def _beat_forever(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(self._interval_s)

    async def _watch_forever(self) -> None:
        while (hung := self._hung()) is None:  # noqa: ASYNC110  no event could be set: the thread is stuck
            await asyncio.sleep(min(self._interval_s, self._hang_s) / 4)
        logger.critical("%s: the process exits to be restarted", hung)
        self._batcher.abort(EngineFailed("the model's run has hung; the engine restarts"))
        await asyncio.sleep(EXIT_GRACE_S)
        self._exit_process(EXIT_HUNG)

    def _hung(self) -> str | None:
        now_s = self._clock()
        if self._batcher.late_s(now_s) > self._hang_s:
            return f"a run has not ended {self._hang_s:g} s after it should have at the latest"
        limit_s = max(self._hang_s, 2 * INTERVALS_UNTIL_UNREADY * self._interval_s)
        if now_s - max(self._passed_s or self._opened_s, self._may_wait_until_s) > limit_s:
            return f"no test inference has passed for {limit_s:g} s"
        return None
