"""Concurrent requests for the same key wait for one computation.

A computation runs as its own task, so a client that goes away does not take the others' answer with it; the task is
cancelled when no caller waits for it any more. A waiter never fails because of another's request: when
computations that others started fail (their deadline, their size) MAX_JOINS times, it computes for itself. Without that
bound a thousand waiters for one text would fail one after another, each call waking all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar

MAX_JOINS: Final = 2
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Compute = Callable[[list[K]], Awaitable[dict[K, V]]]


class _Flight(Generic[K, V]):
    """One running computation and how many requests wait for it."""

    __slots__ = ("keys", "task", "waiters")

    def __init__(self, keys: list[K], task: "asyncio.Task[dict[K, V]]") -> None:
        self.keys = keys
        self.task = task
        self.waiters = 0


class SingleFlight(Generic[K, V]):
    """Joins requests by key. Used from one event loop."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[K, V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, keys: Sequence[K], compute: Compute[K, V]) -> dict[K, V]:
        """A value for each of the distinct `keys`; `compute` is called once with those that are not being computed yet.

        Raises whatever this request's own computation raises.
        """
        found: dict[K, V] = {}
        for _ in range(MAX_JOINS):
            found |= await self._round([key for key in keys if key not in found], compute)
            if len(found) == len(keys):
                return found
        return found | await compute([key for key in keys if key not in found])

    async def _round(self, keys: list[K], compute: Compute[K, V]) -> dict[K, V]:
        """Join what runs and start the rest; keys whose computation failed for somebody else are left out."""
        own = self._start([key for key in keys if key not in self._flights], compute)
        flights = {self._flights[key] for key in keys}
        for flight in flights:
            flight.waiters += 1
        try:
            found: dict[K, V] = {}
            for flight in sorted(flights, key=lambda flight: flight is not own):
                found.update(await self._join(flight, is_own=flight is own))
        finally:
            for flight in flights:
                flight.waiters -= 1
                if flight.waiters == 0 and not flight.task.done():
                    flight.task.cancel()
                    self._drop(flight)
        return {key: found[key] for key in keys if key in found}

    def _start(self, keys: list[K], compute: Compute[K, V]) -> "_Flight[K, V] | None":
        if not keys:
            return None
        flight: _Flight[K, V] = _Flight(keys, asyncio.create_task(_call(compute, keys)))
        for key in keys:
            self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._drop(flight))
        return flight

    async def _join(self, flight: "_Flight[K, V]", is_own: bool) -> dict[K, V]:
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if is_own or (current is not None and current.cancelling()):
                raise
            return {}  # its last other waiter left at this very moment
        except Exception:
            if is_own:
                raise
            return {}

    def _drop(self, flight: "_Flight[K, V]") -> None:
        for key in flight.keys:
            if self._flights.get(key) is flight:
                del self._flights[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # looked at, so that a failure without a waiter is not reported as lost


async def _call(compute: Compute[K, V], keys: list[K]) -> dict[K, V]:
    return await compute(keys)
