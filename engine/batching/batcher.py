"""The queue: which requests are admitted, what runs next and where, and which request gets the vectors.

Everything here happens on the event loop's thread, so the queue's state needs no locks; only
`engine.batching.worker` crosses threads.

A request is a `Ticket`; its unit of work is one text. The future the caller holds is the whole interface to
a ticket: it ends with the vectors, with an EngineError, or by being cancelled, and however it ends the rows
that still wait leave the queue before they cost anything.

No row waits without a bound: within a lane the oldest row is in the next batch, and while bulk rows wait one batch
in `INTERACTIVE_TURNS` + 1 starts from them. A run is never interrupted, so where all workers compute long texts, a
short one waits until the first of them ends.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from engine.batching.lane_queue import BatchShape, LaneQueue, Row
from engine.batching.run_times import Load, RunTimes, load
from engine.batching.worker import Outcome, Worker
from engine.errors import DeadlineExceeded, Draining, EngineError, EngineFailed, QueueFull
from engine.feeds import Run
from engine.protocol import Float32Array, Int32Array, Lane
from engine.settings import BatchingPolicy

INTERACTIVE_TURNS = 4  # interactive batches in a row while bulk rows wait
MAX_RETRY_AFTER_S = 600
DRAIN_POLL_S = 0.01
DEADLINE_TICK_S = 0.02  # deadlines are kept to this; a timer of its own for each request cost 4 us
WORTHWHILE_COST_SHARE = 0.1  # a batch is not split among idle workers when a run's fixed cost would exceed this
RUN_SLACK = 4.0  # times what a run should take, and it is late: other processes use the cores too
MAX_RUN_S = 3600.0  # and after so long, whatever its length and the measured rate


@dataclass(frozen=True, slots=True)
class BatcherSettings:
    """Bounds and policy. `tokens_per_s` is the first guess of the rate of short texts, of all workers together.

    double_cost_tokens: the length of a text whose tokens take twice as long as those of short ones.
    """

    shape: BatchShape
    max_queue_tokens: int
    deadline_s: float
    tokens_per_s: float
    policy: BatchingPolicy = "adaptive"
    window_s: float = 0.005
    double_cost_tokens: float = math.inf


class Observer(Protocol):
    """Is called with what ran, on the event loop."""

    def batch_done(self, rows: int, tokens: int, padded_tokens: int, run_s: float) -> None:
        """A run ended, well or not; `padded_tokens` is rows x longest."""

    def request_started(self, queue_time_s: float) -> None:
        """A request's first row left the queue."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in flight. `vectors` float32[n, dimensions] fills up as its rows come back."""

    future: asyncio.Future[Float32Array]
    lane: Lane
    arrived_s: float
    deadline_s: float  # on the loop's clock
    vectors: Float32Array
    owed: int  # rows still without a vector
    rows: "list[Row[Ticket]]" = field(default_factory=list)
    started: bool = False
    is_probe: bool = False


class Batcher:
    """Batches texts over `runs`, one worker thread for each. Use `open` and `close` on the event loop."""

    def __init__(self, runs: Sequence[Run], dimensions: int, settings: BatcherSettings, observer: Observer) -> None:
        self._settings = settings
        self._dimensions = dimensions
        self._observer = observer
        self._lanes: dict[Lane, LaneQueue[Ticket]] = {lane: LaneQueue() for lane in Lane}
        self._workers = [Worker(f"run-{i}", run, dimensions, self._finish) for i, run in enumerate(runs)]
        self._idle = list(self._workers)
        self._tickets: set[Ticket] = set()
        self._interactive_turns = 0  # taken while bulk rows waited
        self._run_times = RunTimes(settings.tokens_per_s / len(runs), settings.double_cost_tokens)
        self._dispatch_due = False
        self._window: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._refusal: EngineError | None = None

    def open(self) -> None:
        """Start the worker threads; outcomes come to the running loop."""
        self._loop = asyncio.get_running_loop()
        for worker in self._workers:
            worker.open(self._loop)

    def close(self) -> None:
        """End every waiter with `Draining` and let the threads end."""
        self.abort(Draining("the engine is shutting down"))
        for worker in self._workers:
            worker.close()

    @property
    def queued_rows(self) -> int:
        """Texts that wait."""
        return sum(map(len, self._lanes.values()))

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait, without padding."""
        return sum(lane.tokens for lane in self._lanes.values())

    @property
    def tokens_per_s(self) -> float:
        """Measured rate of all workers while they run, without padding."""
        return len(self._workers) * self.run_tokens_per_s

    @property
    def run_tokens_per_s(self) -> float:
        """Measured rate of one worker while it runs, without padding."""
        return self._run_times.tokens_per_s

    def late_s(self, now_s: float) -> float:
        """By how much the latest batch has outlived RUN_SLACK times what it should take; `now_s`: time.monotonic()."""
        return max([0.0, *(now_s - end_s for end_s in self._latest_ends_s())])

    def busy_s(self, now_s: float) -> float:
        """How long it may take until a worker is free, were its batch to take RUN_SLACK times what it should."""
        return 0.0 if self._idle else max(0.0, min(self._latest_ends_s()) - now_s)

    def _latest_ends_s(self) -> list[float]:
        """When each batch that runs should have ended at the latest."""
        return [
            w.busy_since_s + min(RUN_SLACK * w.expected_s, MAX_RUN_S)
            for w in self._workers
            if w.busy_since_s is not None
        ]

    def submit(
        self,
        texts: Sequence[Int32Array],
        lane: Lane = Lane.INTERACTIVE,
        deadline_s: float | None = None,
    ) -> asyncio.Future[Float32Array]:
        """Queue a request, all of it or nothing; the future gives float32[n, dimensions] in the texts' order.

        `deadline_s` is the time the caller will still wait; without it the settings' own holds. Cancel the future
        to withdraw the request. Raises QueueFull and Draining at once; the future may end with
        DeadlineExceeded, EngineFailed or Draining. Every text has at least one token.
        """
        assert all(map(len, texts)), "a text without tokens"
        added = load(map(len, texts))
        self._admit(added)
        if deadline_s is None:
            deadline_s = self._settings.deadline_s + 2 * self._shared_s(added)
        ticket = self._ticket(texts, lane, deadline_s)
        self._lanes[lane].add(ticket.rows)
        return ticket.future

    def health_probe(self, text: Int32Array, deadline_s: float) -> asyncio.Future[Float32Array]:
        """Run one text of the engine's own ahead of a queue of any length, to check that the model answers."""
        ticket = self._ticket([text], Lane.INTERACTIVE, deadline_s)
        ticket.is_probe = True
        self._lanes[Lane.INTERACTIVE].add_first(ticket.rows[0])
        return ticket.future

    def refuse(self, error: EngineError) -> None:
        """From now on every `submit` raises `error`; what is queued goes on."""
        self._refusal = error

    def abort(self, error: EngineError) -> None:
        """Refuse new requests and end every waiter with `error`."""
        self.refuse(error)
        for ticket in tuple(self._tickets):
            _fail(ticket, error)

    async def drain(self, limit_s: float) -> bool:
        """Take nothing new and wait until all is answered, or end it after `limit_s`; whether all was."""
        self.refuse(Draining("the engine is shutting down"))
        end_s = self._loop.time() + limit_s
        while self._tickets and self._loop.time() < end_s:  # noqa: ASYNC110  once in a process's life
            await asyncio.sleep(DRAIN_POLL_S)
        finished = not self._tickets
        self.abort(Draining("the engine is shutting down"))
        return finished

    def _shared_s(self, texts: Load) -> float:
        """How long all workers together should take for these."""
        return self._run_times.expected_s(texts) / len(self._workers)

    def _admit(self, added: Load) -> None:
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)  # raised many times: keep no old frames
        tokens = self.queued_tokens + added.tokens
        excess = tokens - self._settings.max_queue_tokens
        if excess > 0:
            squares = sum(lane.squares for lane in self._lanes.values()) + added.squares
            excess_s = self._shared_s(Load(tokens, squares)) * excess / tokens
            wait_s = min(MAX_RETRY_AFTER_S, max(1, math.ceil(excess_s)))
            raise QueueFull(f"the queue is full; its excess takes about {wait_s} s", wait_s)

    def _ticket(self, texts: Sequence[Int32Array], lane: Lane, deadline_s: float) -> Ticket:
        """A ticket whose rows the caller queues before the loop turns."""
        now_s = self._loop.time()
        vectors = np.empty((len(texts), self._dimensions), np.float32)
        ticket = Ticket(self._loop.create_future(), lane, now_s, now_s + deadline_s, vectors, owed=len(texts))
        ticket.rows = [Row(input_ids, ticket, index) for index, input_ids in enumerate(texts)]
        ticket.future.add_done_callback(partial(self._settle, ticket))
        self._tickets.add(ticket)
        if self._sweep is None:
            self._sweep = self._loop.call_later(DEADLINE_TICK_S, self._sweep_deadlines)
        self._dispatch_soon()
        return ticket

    def _settle(self, ticket: Ticket, _: "asyncio.Future[Float32Array]") -> None:
        """The ticket has ended, in whatever way: drop it and its rows that still wait."""
        self._lanes[ticket.lane].discard(ticket.rows)
        ticket.rows.clear()  # rows and ticket point at each other; no cycle for the collector
        self._tickets.discard(ticket)

    def _sweep_deadlines(self) -> None:
        """Answer the tickets whose time is over: one timer for all, for as long as there are any."""
        now_s = self._loop.time()
        for ticket in [ticket for ticket in self._tickets if ticket.deadline_s <= now_s]:
            _fail(ticket, DeadlineExceeded("the deadline passed before the vectors were computed"))
        self._sweep = self._loop.call_later(DEADLINE_TICK_S, self._sweep_deadlines) if self._tickets else None

    def _dispatch_soon(self) -> None:
        """Dispatch after this turn of the loop, so that requests read in the same turn run together."""
        if not self._dispatch_due:
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start batches on idle workers, as the policy allows."""
        self._dispatch_due = False
        while self._idle and self._may_start():
            batch = self._next_lane().take(self._shape())
            live = [row for row in batch if not row.owner.future.done()]
            if live:
                self._start(live)

    def _shape(self) -> BatchShape:
        """The next batch's bounds: what waits is shared out among idle workers, down to batches worth a run."""
        shape = self._settings.shape
        share = math.ceil(self.queued_tokens / len(self._idle))
        worth = math.ceil(shape.run_cost_tokens / WORTHWHILE_COST_SHARE)
        return replace(shape, max_tokens=min(shape.max_tokens, max(share, worth)))

    def _start(self, batch: list[Row[Ticket]]) -> None:
        now_s = self._loop.time()
        for row in batch:
            if not row.owner.started:
                row.owner.started = True
                self._observer.request_started(now_s - row.owner.arrived_s)
        expected_s = self._run_times.expected_s(load(row.length for row in batch))
        self._idle.pop().start_batch(batch, expected_s)

    def _may_start(self) -> bool:
        if not any(self._lanes.values()):
            return False
        if self._settings.policy == "adaptive" or self._is_full():
            return True
        now_s = self._loop.time()
        due_s = min(lane.oldest.owner.arrived_s for lane in self._lanes.values() if lane) + self._settings.window_s
        if now_s >= due_s:
            return True
        if self._window is not None:
            self._window.cancel()
        self._window = self._loop.call_at(due_s, self._dispatch)
        return False

    def _is_full(self) -> bool:
        shape = self._settings.shape
        return self.queued_rows >= shape.max_rows or self.queued_tokens >= shape.max_tokens

    def _next_lane(self) -> LaneQueue[Ticket]:
        """The lane whose oldest row runs next; at least one has rows."""
        interactive, bulk = self._lanes[Lane.INTERACTIVE], self._lanes[Lane.BULK]
        if interactive and interactive.oldest.owner.is_probe:
            return interactive
        if interactive and (not bulk or self._interactive_turns < INTERACTIVE_TURNS):
            self._interactive_turns += 1 if bulk else 0
            return interactive
        self._interactive_turns = 0
        return bulk

    def _finish(self, worker: Worker[Ticket], outcome: Outcome[Ticket]) -> None:
        """A worker's batch ended: keep the worker busy first, then answer."""
        worker.busy_since_s = None
        self._idle.append(worker)
        try:
            self._dispatch()
        finally:
            for place, row in enumerate(outcome.rows):
                self._return(row, outcome, place)
            self._measure(outcome)

    def _return(self, row: Row[Ticket], outcome: Outcome[Ticket], place: int) -> None:
        ticket = row.owner
        if ticket.future.done():
            return
        if outcome.vectors is None or outcome.finite is None:
            _fail(ticket, outcome.error or EngineFailed("the run ended without vectors"))
        elif not outcome.finite[place]:
            _fail(ticket, EngineFailed("the model returned a vector with NaN or infinity"))
        else:
            ticket.vectors[row.index] = outcome.vectors[place]
            ticket.owed -= 1
            if ticket.owed == 0:
                ticket.future.set_result(ticket.vectors)

    def _measure(self, outcome: Outcome[Ticket]) -> None:
        lengths = [row.length for row in outcome.rows]
        texts = load(lengths)
        self._observer.batch_done(len(lengths), texts.tokens, len(lengths) * max(lengths), outcome.run_s)
        if outcome.error is None:
            self._run_times.measured(texts, outcome.run_s)


def _fail(ticket: Ticket, error: EngineError) -> None:
    if not ticket.future.done():
        ticket.future.set_exception(error)
