"""The queue of one lane: texts that wait, by age and by length, and the choice of which run together.

Pure data without I/O; the batcher uses it, and `dejavec model verify` to batch as the engine does.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.protocol import Int32Array

OwnerT = TypeVar("OwnerT")


class Row(Generic[OwnerT]):
    """One text of a request: int32[length] token ids, whose request it is and its place in it."""

    __slots__ = ("index", "input_ids", "length", "owner")

    def __init__(self, input_ids: Int32Array, owner: OwnerT, index: int) -> None:
        self.input_ids = input_ids
        self.length = len(input_ids)
        self.owner = owner
        self.index = index


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What a batch may be. `run_cost_tokens`: a run's fixed cost, as tokens it could compute instead."""

    max_rows: int
    max_tokens: int  # rows x longest; a single longer row runs alone
    run_cost_tokens: float = 0.0


class LaneQueue(Generic[OwnerT]):
    """Rows in order of arrival, and at the same time grouped by length.

    Adding and removing a row are O(1), but O(distinct lengths) for the first and the last row of a length.
    """

    def __init__(self) -> None:
        self._by_age: OrderedDict[Row[OwnerT], None] = OrderedDict()
        self._by_length: dict[int, OrderedDict[Row[OwnerT], None]] = {}
        self._lengths: list[int] = []  # sorted; exactly those with rows
        self.tokens = 0  # without padding
        self.squares = 0  # of the lengths, summed: what attention costs

    def __len__(self) -> int:
        return len(self._by_age)

    def __contains__(self, row: Row[OwnerT]) -> bool:
        return row in self._by_age

    @property
    def oldest(self) -> Row[OwnerT]:
        """The row that came first. Raises StopIteration on an empty lane."""
        return next(iter(self._by_age))

    def add(self, rows: Iterable[Row[OwnerT]]) -> None:
        """Queue rows behind those that are there."""
        for row in rows:
            group = self._by_length.get(row.length)
            if group is None:
                group = self._by_length[row.length] = OrderedDict()
                insort(self._lengths, row.length)
            group[row] = None
            self._by_age[row] = None
            self.tokens += row.length
            self.squares += row.length**2

    def add_first(self, row: Row[OwnerT]) -> None:
        """Queue a row ahead of all others."""
        self.add([row])
        self._by_age.move_to_end(row, last=False)
        self._by_length[row.length].move_to_end(row, last=False)

    def discard(self, rows: Iterable[Row[OwnerT]]) -> None:
        """Drop those of the rows that still wait."""
        for row in rows:
            if row in self._by_age:
                self._remove(row)

    def take(self, shape: BatchShape) -> list[Row[OwnerT]]:
        """Remove and return the next batch: the oldest row and those that run best beside it.

        The oldest row is always in it, so that a row waits for at most as many batches as there were rows
        before it. Neighbours in length join from the nearest outwards, whole lengths at a time, for as long
        as they raise the batch's efficiency, tokens / (run_cost_tokens + rows x longest): padding is weighed
        against the cost of another run.
        """
        growth = _Growth(self._lengths, self._by_length, self.oldest.length, shape)
        while growth.step():
            pass
        batch = [row for length, count in growth.chosen.items() for row in _first(self._by_length[length], count)]
        for row in batch:
            self._remove(row)
        return batch

    def _remove(self, row: Row[OwnerT]) -> None:
        del self._by_age[row]
        group = self._by_length[row.length]
        del group[row]
        if not group:
            del self._by_length[row.length]
            del self._lengths[bisect_left(self._lengths, row.length)]
        self.tokens -= row.length
        self.squares -= row.length**2


class _Growth(Generic[OwnerT]):
    """A batch while it grows from the oldest row's length to its neighbours."""

    def __init__(
        self,
        lengths: list[int],
        groups: dict[int, OrderedDict[Row[OwnerT], None]],
        start: int,
        shape: BatchShape,
    ) -> None:
        self._lengths = lengths
        self._groups = groups
        self._shape = shape
        self._shorter = bisect_left(lengths, start) - 1  # next candidate below
        self._longer = self._shorter + 2  # next candidate above
        self.chosen: dict[int, int] = {}  # length -> rows
        self._rows = 0
        self._tokens = 0
        self._longest = start
        self._add(start, max(1, self._room(start)))

    def step(self) -> bool:
        """Add the better neighbouring length if it raises the efficiency; False when the batch is done."""
        best, best_length, best_count = self._efficiency(self._longest, 0), 0, 0
        for place in (self._shorter, self._longer):
            if 0 <= place < len(self._lengths):
                length = self._lengths[place]
                count = self._room(length)
                efficiency = self._efficiency(length, count)
                if count and efficiency > best:
                    best, best_length, best_count = efficiency, length, count
        if not best_count:
            return False
        if best_length > self._longest:
            self._longer += 1
        else:
            self._shorter -= 1
        self._add(best_length, best_count)
        return True

    def _room(self, length: int) -> int:
        """How many rows of `length` fit."""
        shape = self._shape
        rows = min(shape.max_rows, shape.max_tokens // max(self._longest, length))
        return max(0, min(len(self._groups[length]), rows - self._rows))

    def _efficiency(self, length: int, count: int) -> float:
        """Share of a run's cost that is texts' own tokens, with `count` more rows of `length`."""
        padded = (self._rows + count) * max(self._longest, length)
        return (self._tokens + count * length) / (self._shape.run_cost_tokens + padded)

    def _add(self, length: int, count: int) -> None:
        self.chosen[length] = count
        self._rows += count
        self._tokens += count * length
        self._longest = max(self._longest, length)


def _first(group: OrderedDict[Row[OwnerT], None], count: int) -> list[Row[OwnerT]]:
    return [row for row, _ in zip(group, range(count), strict=False)]
