"""A thread that runs batches, one at a time, and hands every outcome back to the event loop.

Calls the model and checks what it returns. The only code of the queue that runs outside the event loop's thread.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from engine.batching.lane_queue import OwnerT, Row
from engine.errors import EngineFailed
from engine.feeds import Run
from engine.protocol import Float32Array

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[OwnerT]):
    """What became of a batch: `vectors` float32[B, dimensions], or None and why; `finite` bool[B]."""

    rows: list[Row[OwnerT]]
    vectors: Float32Array | None
    finite: npt.NDArray[np.bool_] | None
    error: EngineFailed | None
    run_s: float


class Worker(Generic[OwnerT]):
    """One thread around one `Run`. `start_batch` is called on the loop's thread, and only while idle."""

    def __init__(
        self,
        name: str,
        run: Run,
        dimensions: int,
        deliver: Callable[["Worker[OwnerT]", Outcome[OwnerT]], None],
    ) -> None:
        self._run = run
        self._dimensions = dimensions
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[list[Row[OwnerT]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop_over_batches, name=name, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.busy_since_s: float | None = None  # time.monotonic() of the batch in hand
        self.expected_s = 0.0  # how long it should take

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; outcomes are delivered on `loop`."""
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        """Let the thread end after the batch in hand. Does not wait: a hung run may never end."""
        self._inbox.put(None)

    def start_batch(self, rows: list[Row[OwnerT]], expected_s: float) -> None:
        """Run these rows; `deliver` is called with the outcome, whatever it is."""
        assert self.busy_since_s is None
        self.busy_since_s = time.monotonic()
        self.expected_s = expected_s
        self._inbox.put(rows)

    def _loop_over_batches(self) -> None:
        while (rows := self._inbox.get()) is not None:
            outcome = self._compute(rows)
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._deliver, self, outcome)
            except RuntimeError:  # the loop is closed: no caller waits any more
                return
            del rows, outcome  # an idle thread must not keep a batch alive

    def _compute(self, rows: list[Row[OwnerT]]) -> Outcome[OwnerT]:
        started_s = time.perf_counter()
        try:
            vectors: Any = self._run([row.input_ids for row in rows])
            finite = self._check(vectors, len(rows))
        except EngineFailed as error:
            return Outcome(rows, None, None, error, time.perf_counter() - started_s)
        except BaseException as error:  # a thread that ended would leave its callers waiting without end
            logger.exception("a run failed: rows=%d longest=%d", len(rows), max(row.length for row in rows))
            failure = EngineFailed(f"the model's run failed ({type(error).__name__})")
            return Outcome(rows, None, None, failure, time.perf_counter() - started_s)
        return Outcome(rows, vectors, finite, None, time.perf_counter() - started_s)

    def _check(self, vectors: Any, count: int) -> npt.NDArray[np.bool_]:
        """Which rows are finite, bool[count]. Raises EngineFailed unless float32[count, dimensions]."""
        expected = (count, self._dimensions)
        if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.shape != expected:
            found = f"{getattr(vectors, 'dtype', type(vectors).__name__)}{list(getattr(vectors, 'shape', ()))}"
            logger.error("the model returned %s for a batch of %d", found, count)
            raise EngineFailed(f"the model returned {found} where float32{list(expected)} was due")
        finite: npt.NDArray[np.bool_] = np.all(np.isfinite(vectors), axis=1)
        return finite
