"""Keeps a list of children running: starts them in order, restarts what ends, stops them in reverse order.

Knows nothing of what the children are; `deploy.local` says that.

    SupervisorError
    └─ StartRefused     a child left with exit status 2 (its configuration is wrong) before all were ready
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.backoff import Backoff
from deploy.child import Child, ChildSpec, End, Say, WatchPolicy
from deploy.leash import Leash

ME = "dejavec"
CONFIGURATION_EXIT = 2


class SupervisorError(Exception):
    """The children cannot be kept running."""


class StartRefused(SupervisorError):
    """A child cannot start with this configuration; its own output says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How children are watched and how restarts are spaced."""

    watch: WatchPolicy
    new_backoff: Callable[[], Backoff]


class Kept:
    """A child that is kept running, through as many processes as that takes."""

    def __init__(self, spec: ChildSpec, policy: Policy, leash: Leash, say: Say, inherit: tuple[int, ...]) -> None:
        self.spec = spec
        self.first_end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.ready = asyncio.Event()
        self.child: Child | None = None
        self._policy = policy
        self._backoff = policy.new_backoff()
        self._leash = leash
        self._say = say
        self._inherit = inherit
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the child, wait for its end, start it again after a delay; until `stop`."""
        while not self._stopping.is_set():
            end = await self._live_once()
            if self._stopping.is_set():
                return
            if not self.first_end.done():
                self.first_end.set_result(end)
            delay = self._backoff.next_delay_s(end.uptime_s)
            self._say(ME, f"{self.spec.name} {end}; starting it again in {delay:.1f} s")
            await _wait_at_most(self._stopping, delay)

    async def stop(self) -> None:
        """End the child in order and start no other."""
        self._stopping.set()
        if self.child:
            await self.child.stop()

    def kill(self) -> None:
        """End the child at once and start no other."""
        self._stopping.set()
        if self.child:
            self.child.kill()

    async def _live_once(self) -> End:
        try:
            self.child = await Child.start(self.spec, self._leash, self._say, self._inherit)
        except OSError as error:
            return End(127, 0.0, f"could not be started ({error})")
        if self._stopping.is_set():  # stop came while the process was being started
            await self.child.stop()
        try:
            return await self.child.watch(self._policy.watch, self._announce)
        finally:
            self.child = None
            self.ready.clear()

    def _announce(self) -> None:
        self.ready.set()
        self._say(ME, f"{self.spec.name} is up")


class Supervisor:
    """Runs the children of one `dejavec up`; `inherit` are descriptors that each of them holds open."""

    def __init__(self, policy: Policy, leash: Leash, say: Say, inherit: tuple[int, ...] = ()) -> None:
        self._policy = policy
        self._leash = leash
        self._say = say
        self._inherit = inherit
        self._kept: list[tuple[Kept, asyncio.Task[None]]] = []

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Start the children in order, each once the one before is ready. Raises StartRefused.

        A child that fails to become ready is restarted and the next ones are started all the same.
        """
        for spec in specs:
            self._say(ME, f"starting {spec.name}")
            kept = Kept(spec, self._policy, self._leash, self._say, self._inherit)
            self._kept.append((kept, asyncio.create_task(kept.run())))
            await self._until_ready_or_ended(kept)

    async def stop(self) -> None:
        """Stop the children, the last one started first, each gone before the next is told."""
        for kept, task in reversed(self._kept):
            self._say(ME, f"stopping {kept.spec.name}")
            await kept.stop()
            await task
        self._kept.clear()

    def kill(self) -> None:
        """End all children at once; `stop`, if it is under way, then returns soon."""
        for kept, _ in self._kept:
            kept.kill()

    async def _until_ready_or_ended(self, kept: Kept) -> None:
        ready = asyncio.create_task(kept.ready.wait())
        either: set[asyncio.Future[Any]] = {ready, kept.first_end}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if kept.first_end.done() and kept.first_end.result().code == CONFIGURATION_EXIT:
            raise StartRefused(f"{kept.spec.name} refused its configuration; its last lines above say why")


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
