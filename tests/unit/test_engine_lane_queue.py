"""Which rows run together: oldest first, near in length, within the batch's bounds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.batching.lane_queue import BatchShape, LaneQueue, Row

SHAPE = BatchShape(max_rows=8, max_tokens=64, run_cost_tokens=6)
lengths_st = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def lane_of(lengths: list[int]) -> tuple[LaneQueue[None], list[Row[None]]]:
    rows = [Row(np.zeros(length, np.int32), None, i) for i, length in enumerate(lengths)]
    lane: LaneQueue[None] = LaneQueue()
    lane.add(rows)
    return lane, rows


@given(lengths_st)
def test_every_batch_holds_the_oldest_row_and_keeps_the_bounds(lengths: list[int]) -> None:
    """Whatever waits, the next batch has the oldest row, at most 8 rows and 64 padded tokens, or one row alone."""
    lane, _ = lane_of(lengths)
    while lane:
        oldest = lane.oldest
        batch = lane.take(SHAPE)
        assert oldest in batch
        assert len(batch) <= SHAPE.max_rows
        assert len(batch) == 1 or len(batch) * max(row.length for row in batch) <= SHAPE.max_tokens


@given(lengths_st)
def test_every_row_is_taken_exactly_once(lengths: list[int]) -> None:
    """Batches together are the rows that were added, and the token count ends at nought."""
    lane, rows = lane_of(lengths)
    assert lane.tokens == sum(lengths)
    taken = []
    while lane:
        taken += lane.take(SHAPE)
    assert sorted(row.index for row in taken) == [row.index for row in rows]
    assert lane.tokens == 0


@given(lengths_st, st.data())
def test_discarded_rows_leave_no_trace(lengths: list[int], data: st.DataObject) -> None:
    """Rows that were discarded are not counted and never taken; discarding twice does no harm."""
    lane, rows = lane_of(lengths)
    gone = data.draw(st.lists(st.sampled_from(rows)))
    lane.discard(gone)
    assert lane.tokens == sum(row.length for row in rows if row not in gone)
    taken = []
    while lane:
        taken += lane.take(SHAPE)
    assert {row.index for row in taken} == {row.index for row in rows} - {row.index for row in gone}


def test_equal_lengths_fill_a_batch() -> None:
    """Rows of one length run together up to the bound of rows."""
    lane, _ = lane_of([5] * 20)
    assert [len(lane.take(SHAPE)) for _ in range(3)] == [8, 8, 4]


def test_a_much_longer_row_stays_out() -> None:
    """Padding short rows to a long one costs more than another run, so they run apart."""
    lane, _ = lane_of([8, 60, 8, 8])
    assert [row.length for row in lane.take(BatchShape(8, 4096, 6))] == [8, 8, 8]


def test_a_dear_run_takes_in_what_is_there() -> None:
    """Where starting a run costs as much as many tokens, rows of different lengths share one."""
    lane, _ = lane_of([8, 60, 8, 8])
    assert len(lane.take(BatchShape(8, 4096, 5000))) == 4


def test_a_row_above_the_token_budget_runs_alone() -> None:
    """A text longer than the whole budget is not refused but runs by itself."""
    lane, _ = lane_of([100, 1])
    assert [row.length for row in lane.take(SHAPE)] == [100]


def test_mixed_lengths_are_padded_by_less_than_a_tenth() -> None:
    """With 200 texts of 8 to 256 tokens waiting, padding is under 10 % of what is computed."""
    lane, rows = lane_of(np.random.default_rng(0).integers(8, 257, size=200).tolist())
    padded = 0
    while lane:
        batch = lane.take(BatchShape(max_rows=128, max_tokens=4096, run_cost_tokens=6))
        padded += len(batch) * max(row.length for row in batch)
    assert 1 - sum(row.length for row in rows) / padded < 0.10


def test_an_urgent_row_is_in_the_next_batch() -> None:
    """A row added first goes ahead of all that wait, whatever their lengths."""
    lane, _ = lane_of([8] * 30)
    urgent: Row[None] = Row(np.zeros(8, np.int32), None, 99)
    lane.add_first(urgent)
    assert lane.take(SHAPE)[0] is urgent
