"""The open loop: sends each request when it is due, whatever became of earlier ones.

Latency counts from the moment a request was *due*, so a server that stalls cannot hide the wait it caused
by slowing the generator down (coordinated omission). What the generator itself did wrong is kept apart: how
late it sent (lag), and the arrivals it had to drop because too many requests were in flight.
"""

import asyncio
import selectors
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from select import select

from loadtest.client import Answer, RequestFailed
from loadtest.workload import Arrival


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due, how late it was sent, how long after `due_s` it ended, and how."""

    due_s: float
    lag_s: float
    latency_s: float
    answer: Answer | None
    error: str | None = None


Send = Callable[[Arrival], Awaitable[Answer]]
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass
class OpenLoop:
    """Sends arrivals, hands on samples; `sent`, `dropped` and `in_flight` may be watched meanwhile.

    stopped_after_s: when `stop` ended it before all was sent, in seconds from the start; else None.
    """

    send: Send
    max_in_flight: int
    clock: Clock = time.perf_counter
    sleep: Sleep = asyncio.sleep
    on_sample: Callable[[Arrival, Sample], None] = lambda _arrival, _sample: None
    dropped: list[float] = field(default_factory=list)  # when each dropped arrival was due
    in_flight: int = 0
    sent: int = 0
    stopped_after_s: float | None = None
    _stopped: bool = False

    def stop(self) -> None:
        """Send nothing more; `run` returns when what is in flight has ended."""
        self._stopped = True

    async def run(self, arrivals: Iterable[Arrival]) -> None:
        """Send every arrival and wait until the last has its answer or its error."""
        start = self.clock()
        async with asyncio.TaskGroup() as requests:
            for arrival in arrivals:
                # Also when late: a sleep of zero lets the answers in, without which nothing would ever end.
                await self.sleep(max(0.0, start + arrival.due_s - self.clock()))
                if self._stopped:
                    self.stopped_after_s = self.clock() - start
                    return
                if self.in_flight >= self.max_in_flight:
                    self.dropped.append(arrival.due_s)
                    continue
                self.in_flight += 1
                self.sent += 1
                requests.create_task(self._request(arrival, start + arrival.due_s))

    async def _request(self, arrival: Arrival, due: float) -> None:
        lag_s = max(0.0, self.clock() - due)
        answer, error = None, None
        try:
            answer = await self.send(arrival)
        except RequestFailed as failure:
            error = str(failure)
        finally:
            self.in_flight -= 1
        self.on_sample(arrival, Sample(arrival.due_s, lag_s, self.clock() - due, answer, error))


if sys.platform == "linux":

    class PreciseSelector(selectors.EpollSelector):
        """Epoll that wakes within 0.2 ms of a timer; the standard one rounds time-outs up to whole ms."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait on the epoll descriptor itself, which `select` does with microseconds; then collect."""
            if timeout is not None and timeout > 0:
                select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    def precise_loop() -> asyncio.AbstractEventLoop:
        """An event loop whose timers are not rounded up to milliseconds."""
        return asyncio.SelectorEventLoop(PreciseSelector())

else:

    def precise_loop() -> asyncio.AbstractEventLoop:
        """The platform's own event loop: kqueue's timers are precise already."""
        return asyncio.new_event_loop()
