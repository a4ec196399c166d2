"""Whether the model still answers: a real inference at intervals, and an end to a process whose run has hung.

A thread stuck inside a graph cannot be stopped from Python, and a device in a sticky error stays in it. So when
a run outlives `hang_s`, or no test inference has passed for that long, all waiters get `EngineFailed`, `/ready`
turns 503, and the process exits with EXIT_HUNG (70): its supervisor starts a fresh one, which is the only remedy.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable

import numpy as np

from engine.batching.batcher import Batcher
from engine.errors import EngineError, EngineFailed
from engine.protocol import Float32Array, Int32Array

logger = logging.getLogger(__name__)

EXIT_HUNG = 70  # EX_SOFTWARE
EXIT_GRACE_S = 0.5  # to send the last answers
INTERVALS_UNTIL_UNREADY = 3
TOLERANCE = 1e-3  # CPU vectors repeat to the bit; CUDA picks kernels by shape


class Heartbeat:
    """Runs `text` through the batcher every `interval_s`, ahead of the queue, and expects one vector."""

    def __init__(
        self,
        batcher: Batcher,
        text: Int32Array,
        interval_s: float,
        hang_s: float,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._batcher = batcher
        self._text = text
        self._interval_s = interval_s
        self._hang_s = hang_s
        self._exit_process = exit_process
        self._expected: Float32Array | None = None
        self._opened_s = math.inf
        self._passed_s: float | None = None  # time.monotonic()
        self._draining = False

    async def run(self) -> None:
        """Beat and watch until cancelled."""
        self._opened_s = time.monotonic()
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
        age_s = time.monotonic() - self._passed_s
        if age_s > INTERVALS_UNTIL_UNREADY * self._interval_s:
            return f"the last test inference passed {age_s:.1f} s ago"
        return None

    async def beat(self) -> bool:
        """One test inference; True if it passed."""
        try:
            vector = (await self._batcher.health_probe(self._text, INTERVALS_UNTIL_UNREADY * self._interval_s))[0]
        except EngineError as error:
            logger.warning("test inference failed: %s", error)
            return False
        except Exception:  # a heartbeat that ended with a bug of ours would never end the process
            logger.exception("test inference failed with an unexpected error")
            return False
        if self._expected is None:
            self._expected = vector
        if not np.allclose(vector, self._expected, rtol=0, atol=TOLERANCE):
            logger.error("test inference gave another vector than at start")
            return False
        self._passed_s = time.monotonic()
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
        now_s = time.monotonic()
        if self._batcher.longest_run_s(now_s) > self._hang_s:
            return f"a run has not ended for {self._hang_s:g} s"
        limit_s = max(self._hang_s, 2 * INTERVALS_UNTIL_UNREADY * self._interval_s)
        if now_s - (self._passed_s or self._opened_s) > limit_s:
            return f"no test inference has passed for {limit_s:g} s"
        return None
