"""The batcher's promises: order, bounds, lanes, and an answer for every waiter whatever the model does."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batching.batcher import INTERACTIVE_TURNS, MAX_RUN_S, Batcher, BatcherSettings
from engine.batching.lane_queue import BatchShape
from engine.errors import DeadlineExceeded, Draining, EngineFailed, QueueFull
from engine.protocol import Float32Array, Int32Array, Lane

DIMENSIONS = 2
PATIENCE_S = 120.0


class FakeRun:
    """A model whose vector is (first token, length); it waits at a gate and remembers its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []

    def __call__(self, texts: Sequence[Int32Array]) -> Float32Array:
        self.batches.append([int(text[0]) for text in texts])
        assert self.gate.wait(PATIENCE_S)
        return np.array([(text[0], len(text)) for text in texts], np.float32)


class NoObserver:
    """Counts padded tokens and forgets the rest."""

    def __init__(self) -> None:
        self.padded_tokens = 0

    def batch_done(self, rows: int, tokens: int, padded_tokens: int, run_s: float) -> None:
        self.padded_tokens += padded_tokens

    def request_started(self, queue_time_s: float) -> None:
        assert queue_time_s >= 0


def bounds(**changes: Any) -> BatcherSettings:
    values = {
        "shape": BatchShape(max_rows=4, max_tokens=64),
        "max_queue_tokens": 10_000,
        "deadline_s": PATIENCE_S,
        "tokens_per_s": 100.0,
    }
    return BatcherSettings(**(values | changes))


@asynccontextmanager
async def batcher_of(*runs: Callable[..., Any], **changes: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(runs, DIMENSIONS, bounds(**changes), NoObserver())
    batcher.open()
    try:
        yield batcher
    finally:
        for run in runs:
            if isinstance(run, FakeRun):
                run.gate.set()
        batcher.close()


def text(first: int, length: int = 1) -> Int32Array:
    return np.array([first] + [0] * (length - 1), np.int32)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def answer(future: Awaitable[Float32Array]) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        return [int(first) for first, _ in await future]


requests_st = st.lists(
    st.tuples(st.sampled_from(Lane), st.lists(st.integers(1, 80), min_size=1, max_size=40)), max_size=12
)


@settings(deadline=None, max_examples=60)
@given(requests_st, st.integers(1, 3), st.sampled_from(["adaptive", "window"]))
def test_requests_of_any_size_come_back_whole_and_in_order(
    requests: list[tuple[Lane, list[int]]], workers: int, policy: str
) -> None:
    """However requests are split over batches and workers, each gets its own vectors in its own order."""

    async def scenario() -> None:
        runs = [FakeRun() for _ in range(workers)]
        async with batcher_of(*runs, policy=policy, window_s=0.0) as batcher:
            numbered, number = [], 0
            for lane, lengths in requests:
                texts = [text(number + i, length) for i, length in enumerate(lengths)]
                numbered.append((texts, batcher.submit(texts, lane)))
                number += len(lengths)
            for texts, future in numbered:
                expected = [(ids[0], len(ids)) for ids in texts]
                assert np.array_equal(await future, np.array(expected, np.float32))
            assert batcher.queued_rows == batcher.queued_tokens == 0

    asyncio.run(scenario())


async def test_texts_of_one_turn_of_the_loop_share_a_batch() -> None:
    """Requests submitted together run together even though a worker is idle."""
    run = FakeRun()
    async with batcher_of(run) as batcher:
        await asyncio.gather(*(batcher.submit([text(i)]) for i in range(4)))
    assert run.batches == [[0, 1, 2, 3]]


async def test_adaptive_starts_at_once_and_batches_while_busy() -> None:
    """An idle worker takes a lone text; what arrives while it runs forms the next batch."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        futures = [batcher.submit([text(0)])]
        await until(lambda: len(run.batches) == 1)
        futures += [batcher.submit([text(1)]), batcher.submit([text(2)])]
        run.gate.set()
        await asyncio.gather(*futures)
    assert run.batches == [[0], [1, 2]]


async def test_idle_workers_share_what_waits() -> None:
    """A request that one batch could hold is spread over the workers that have nothing to do."""
    runs = [FakeRun(), FakeRun()]
    for run in runs:
        run.gate.clear()
    async with batcher_of(*runs, shape=BatchShape(max_rows=128, max_tokens=4096, run_cost_tokens=1)) as batcher:
        future = batcher.submit([text(i, 5) for i in range(20)])
        await until(lambda: all(run.batches for run in runs))
        for run in runs:
            run.gate.set()
        assert await answer(future) == list(range(20))
    assert [[len(batch) for batch in run.batches] for run in runs] == [[10], [10]]


async def test_window_collects_until_a_batch_is_full() -> None:
    """In policy `window` nothing runs before the window ends, unless a batch is full."""
    run = FakeRun()
    async with batcher_of(run, policy="window", window_s=PATIENCE_S) as batcher:
        futures = [batcher.submit([text(i)]) for i in range(3)]
        await asyncio.sleep(0.01)
        assert run.batches == []
        futures.append(batcher.submit([text(3)]))
        await asyncio.gather(*futures)
    assert run.batches == [[0, 1, 2, 3]]


async def test_window_ends_by_itself() -> None:
    """In policy `window` a lone text runs when its window is over."""
    async with batcher_of(FakeRun(), policy="window", window_s=0.001) as batcher:
        assert await answer(batcher.submit([text(7)])) == [7]


async def test_interactive_texts_run_ahead_of_bulk_without_starving_it() -> None:
    """While both lanes wait, one batch in INTERACTIVE_TURNS + 1 is bulk."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, shape=BatchShape(max_rows=1, max_tokens=64)) as batcher:
        first = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        bulk = batcher.submit([text(100), text(101)], Lane.BULK)
        interactive = batcher.submit([text(i) for i in range(1, 2 * INTERACTIVE_TURNS + 2)])
        run.gate.set()
        await asyncio.gather(first, bulk, interactive)
    order = [batch[0] for batch in run.batches]
    assert order[1 : INTERACTIVE_TURNS + 2] == [*range(1, INTERACTIVE_TURNS + 1), 100]
    assert order[INTERACTIVE_TURNS + 2 :] == [*range(INTERACTIVE_TURNS + 1, 2 * INTERACTIVE_TURNS + 1), 101, 9]


async def test_admission_is_all_or_nothing_by_tokens() -> None:
    """A request that would exceed the bound is refused whole; one that fits is taken."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, max_queue_tokens=20) as batcher:
        running = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        waiting = batcher.submit([text(1, 12)])
        with pytest.raises(QueueFull) as refusal:
            batcher.submit([text(2), text(3, 8)])
        assert batcher.queued_tokens == 12
        fits = batcher.submit([text(4, 8)])
        run.gate.set()
        await asyncio.gather(running, waiting, fits)
    assert refusal.value.retry_after_s == 1


async def test_retry_after_follows_the_rate() -> None:
    """A caller is told to come back when the excess over the bound will have been computed."""
    async with batcher_of(FakeRun(), max_queue_tokens=20, tokens_per_s=100.0) as batcher:
        with pytest.raises(QueueFull) as refusal:
            batcher.submit([text(0, 520)])
    assert refusal.value.retry_after_s == 5


async def test_a_text_whose_deadline_passes_is_never_run() -> None:
    """Rows whose deadline passes in the queue leave it, and the caller hears why."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        running = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        late = batcher.submit([text(1), text(2)], deadline_s=0.001)
        with pytest.raises(DeadlineExceeded):
            await answer(late)
        assert batcher.queued_rows == 0
        run.gate.set()
        await running
    assert run.batches == [[0]]


async def test_a_deadline_holds_for_a_text_that_runs() -> None:
    """The caller is answered at its deadline although the run goes on, and the next request works."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        with pytest.raises(DeadlineExceeded):
            await answer(batcher.submit([text(0)], deadline_s=0.01))
        run.gate.set()
        assert await answer(batcher.submit([text(1)])) == [1]


async def test_a_cancelled_request_is_never_run() -> None:
    """Cancelling the future takes the waiting rows out of the queue."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        running = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        gone = batcher.submit([text(i) for i in range(1, 10)])
        stays = batcher.submit([text(10)])
        gone.cancel()
        await until(lambda: batcher.queued_rows == 1)
        run.gate.set()
        await asyncio.gather(running, stays)
    assert run.batches == [[0], [10]]


class Exploding:
    """Gives `outcomes` one after the other: raises exceptions, returns anything else; then works."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)

    def __call__(self, texts: Sequence[Int32Array]) -> Any:
        if self.outcomes:
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome
        return np.array([(ids[0], len(ids)) for ids in texts], np.float32)


BAD_OUTCOMES = {
    "raises": RuntimeError("graph"),
    "exits": SystemExit(1),
    "is interrupted": KeyboardInterrupt(),
    "returns nothing": None,
    "returns a list": [[0.0, 0.0]],
    "too few rows": np.zeros((1, DIMENSIONS), np.float32),
    "too many rows": np.zeros((9, DIMENSIONS), np.float32),
    "other dimensions": np.zeros((3, DIMENSIONS + 1), np.float32),
    "float64": np.zeros((3, DIMENSIONS), np.float64),
    "NaN": np.full((3, DIMENSIONS), np.nan, np.float32),
    "infinity": np.full((3, DIMENSIONS), np.inf, np.float32),
}


@pytest.mark.parametrize("outcome", BAD_OUTCOMES.values(), ids=BAD_OUTCOMES.keys())
async def test_every_waiter_hears_of_a_failed_run_and_the_next_one_works(outcome: Any) -> None:
    """Whatever the model does, all its waiters get EngineFailed, and the engine goes on."""
    async with batcher_of(Exploding(outcome)) as batcher:
        waiters = [batcher.submit([text(0)]), batcher.submit([text(1), text(2)])]
        results = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), PATIENCE_S)
        assert [type(result) for result in results] == [EngineFailed, EngineFailed]
        assert await answer(batcher.submit([text(3)])) == [3]


async def test_a_vector_that_is_not_finite_fails_its_own_request_only() -> None:
    """NaN in one row is no reason to lose the others of the batch."""
    vectors = np.array([[1, 1], [np.nan, 1], [3, 1]], np.float32)
    async with batcher_of(Exploding(vectors)) as batcher:
        good, bad, fine = (batcher.submit([text(i)]) for i in (1, 2, 3))
        assert (await answer(good), await answer(fine)) == ([1], [3])
        with pytest.raises(EngineFailed):
            await answer(bad)


async def test_rows_of_a_failed_request_do_not_run() -> None:
    """When one batch of a split request fails, what is left of it leaves the queue."""
    run = Exploding(RuntimeError("graph"))
    async with batcher_of(run, shape=BatchShape(max_rows=1, max_tokens=64)) as batcher:
        with pytest.raises(EngineFailed):
            await answer(batcher.submit([text(i) for i in range(100)]))
        await until(lambda: batcher.queued_rows == 0)


async def test_draining_finishes_what_waits_and_takes_nothing_new() -> None:
    """During a drain queued requests are answered and new ones refused."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        waiting = batcher.submit([text(i) for i in range(9)])
        draining = asyncio.create_task(batcher.drain(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            batcher.submit([text(9)])
        run.gate.set()
        assert await answer(waiting) == list(range(9))
        assert await draining


async def test_a_drain_has_an_end() -> None:
    """What is not done when the drain's time is over gets Draining; nobody waits for ever."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        waiting = batcher.submit([text(0)])
        assert not await batcher.drain(0.0)
        with pytest.raises(Draining):
            await answer(waiting)


async def test_closing_ends_every_waiter() -> None:
    """A batcher that closes answers all who wait, also those whose run never ends."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run) as batcher:
        waiting = [batcher.submit([text(0)]), batcher.submit([text(1)])]
        batcher.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [Draining, Draining]


async def test_a_health_probe_runs_ahead_of_a_full_queue() -> None:
    """The heartbeat's text passes admission and goes first, so that overload does not look like death."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, max_queue_tokens=10, shape=BatchShape(1, 64)) as batcher:
        running = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        waiting = batcher.submit([text(1, 5), text(2, 5)])
        probe = batcher.health_probe(text(99), PATIENCE_S)
        run.gate.set()
        await asyncio.gather(running, waiting, probe)
    assert run.batches == [[0], [99], [1], [2]]


async def test_a_health_probe_runs_ahead_of_bulk_texts_whose_turn_it_is() -> None:
    """Each of their runs may take a minute."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, shape=BatchShape(1, 64)) as batcher:
        running = batcher.submit([text(0)])
        await until(lambda: len(run.batches) == 1)
        bulk = batcher.submit([text(100)], Lane.BULK)
        batcher._interactive_turns = INTERACTIVE_TURNS
        probe = batcher.health_probe(text(99), PATIENCE_S)
        run.gate.set()
        await asyncio.gather(running, bulk, probe)
    assert run.batches == [[0], [99], [100]]


async def test_how_late_a_run_is_follows_its_length() -> None:
    """60 tokens whose attention costs 6 times the rest: 4.2 s at 100 short tokens a second, late after 4 times that."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, double_cost_tokens=10) as batcher:
        assert batcher.busy_s(time.monotonic()) == 0
        before_s = time.monotonic()
        running = batcher.submit([text(0, 60)])
        await until(lambda: len(run.batches) == 1)
        after_s = time.monotonic()
        assert batcher.late_s(before_s + 16.7) == 0
        assert 0.05 < batcher.late_s(after_s + 16.9) < 0.2 + after_s - before_s
        assert 16.0 - after_s + before_s < batcher.busy_s(after_s) < 16.9
        assert batcher.busy_s(after_s + 16.9) == 0
        run.gate.set()
        await running


async def test_a_worker_that_is_idle_needs_no_waiting() -> None:
    """A long text on one of two workers keeps nobody waiting."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, run, double_cost_tokens=10) as batcher:
        running = batcher.submit([text(0, 60)])
        await until(lambda: len(run.batches) == 1)
        assert batcher.busy_s(time.monotonic()) == 0
        run.gate.set()
        await running


async def test_no_run_has_more_than_an_hour() -> None:
    """A rate that was measured while the machine slept does not hide a hang."""
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, tokens_per_s=1e-6) as batcher:
        running = batcher.submit([text(0, 60)], deadline_s=PATIENCE_S)
        await until(lambda: len(run.batches) == 1)
        assert batcher.late_s(time.monotonic() + MAX_RUN_S + 1) > 0
        run.gate.set()
        await running


async def test_retry_after_and_deadline_follow_the_length() -> None:
    """20 texts of 60 tokens take six times as long again as 1,200 short tokens."""
    bounded = {"max_queue_tokens": 600, "tokens_per_s": 100.0, "double_cost_tokens": 10.0, "deadline_s": 1.0}
    async with batcher_of(FakeRun(), **bounded) as batcher:
        with pytest.raises(QueueFull) as refusal:
            batcher.submit([text(0, 60)] * 20)
    assert refusal.value.retry_after_s == 42  # half of (1,200 + 20 x 360) / 100
    run = FakeRun()
    run.gate.clear()
    async with batcher_of(run, **bounded) as batcher:
        running = batcher.submit([text(0, 60)])
        (ticket,) = batcher._tickets
        assert ticket.deadline_s - ticket.arrived_s == pytest.approx(1 + 2 * 4.2)
        run.gate.set()
        await running


async def test_the_rate_is_measured() -> None:
    """After some runs the rate is a positive number that no longer hangs on the first guess."""
    async with batcher_of(FakeRun(), tokens_per_s=1.0) as batcher:
        await answer(batcher.submit([text(i, 16) for i in range(400)]))
        assert batcher.tokens_per_s > 1.0
