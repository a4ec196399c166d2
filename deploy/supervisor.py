"""Keeps a list of children running: starts them in order, restarts what ends, stops them in reverse order.

A child that exits with CANNOT_START (`engine.exit_status`) is not started again. While the run starts, that ends it;
afterwards it goes on without that child where the child's spec has an `on_refused`. What the children are is in
`deploy.local`.

    SupervisorError
    └─ StartRefused     a child without which the run is of no use cannot start; the message has its reason
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from deploy.backoff import Backoff
from deploy.child import Child, ChildSpec, End, LogLine, NotPrepared, WatchPolicy
from deploy.orphan_guard import OrphanGuard
from engine.exit_status import CANNOT_START

OWN_NAME = "dejavec"  # before the supervisor's own lines


class SupervisorError(Exception):
    """The children cannot be kept running."""


class StartRefused(SupervisorError):
    """A child cannot start with this bundle or configuration; the message has its reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child that exited with CANNOT_START, and the reason it gave."""

    spec: ChildSpec
    reason: str

    def __str__(self) -> str:
        return f"{self.spec.name} cannot start: {self.reason or 'its last lines above have the reason'}"


@dataclass(frozen=True, slots=True)
class Policy:
    """How children are watched and how restarts are spaced."""

    watch: WatchPolicy
    new_backoff: Callable[[], Backoff]


class SupervisedChild:
    """A child that is kept running, through as many processes as that takes; `refuse` is called when none can start."""

    def __init__(
        self,
        spec: ChildSpec,
        policy: Policy,
        guard: OrphanGuard,
        log: LogLine,
        inherit: tuple[int, ...],
        refuse: Callable[[Refusal], None],
    ) -> None:
        self.spec = spec
        self.first_end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.ready = asyncio.Event()
        self.child: Child | None = None
        self._policy = policy
        self._backoff = policy.new_backoff()
        self._guard = guard
        self._log = log
        self._inherit = inherit
        self._refuse = refuse
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Start the child, wait for its end, start it again after a delay; until `stop`, or until it cannot start."""
        while not self._stopping.is_set():
            end = await self._run_once()
            if self._stopping.is_set():
                return
            if end.code == CANNOT_START:
                self._refuse(Refusal(self.spec, end.reason))
                return
            if not self.first_end.done():
                self.first_end.set_result(end)
            delay = self._backoff.next_delay_s(end.uptime_s)
            self._log(OWN_NAME, f"{self.spec.name} {end}; starting it again in {delay:.1f} s")
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

    async def _run_once(self) -> End:
        try:
            self.child = await Child.start(self.spec, self._guard, self._log, self._inherit)
        except NotPrepared as error:
            return End(CANNOT_START, 0.0, reason=str(error))
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
        self._log(OWN_NAME, f"{self.spec.name} is up")


class Supervisor:
    """Runs the children of one `dejavec up`; `inherit` are descriptors that each of them holds open."""

    def __init__(self, policy: Policy, guard: OrphanGuard, log: LogLine, inherit: tuple[int, ...] = ()) -> None:
        self._policy = policy
        self._guard = guard
        self._log = log
        self._inherit = inherit
        self._children: list[tuple[SupervisedChild, asyncio.Task[None]]] = []
        self._refusals: asyncio.Queue[Refusal] = asyncio.Queue()

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Start the children in order, each once the one before is ready. Raises StartRefused.

        A child that fails to become ready is restarted and the next ones are started all the same.
        """
        await self.unless_refused(self._start(specs))

    async def unless_refused(self, work: Awaitable[None]) -> None:
        """Do the work, and cancel it when a child cannot start. Raises StartRefused."""
        await first_of(work, self._raise_refusal())

    async def watch(self) -> None:
        """After the start: go on without a child that cannot start again, where its spec allows that.

        Raises StartRefused where it does not.
        """
        while True:
            refusal = await self._refusals.get()
            if refusal.spec.on_refused is None:
                raise StartRefused(str(refusal))
            text = f"{refusal}. It is not started again: mend this, then restart `dejavec up`"
            self._log(OWN_NAME, text)
            try:
                refusal.spec.on_refused(text)
            except OSError as error:
                self._log(OWN_NAME, f"the other processes could not be informed: {error}")

    async def stop(self) -> None:
        """Stop the children, the last one started first, each gone before the next is stopped."""
        for child, task in reversed(self._children):
            if not task.done():  # it is when the child was refused
                self._log(OWN_NAME, f"stopping {child.spec.name}")
                await child.stop()
            await task
        self._children.clear()

    def kill(self) -> None:
        """End all children at once; `stop`, if it is under way, then returns soon."""
        for child, _ in self._children:
            child.kill()

    async def _start(self, specs: Sequence[ChildSpec]) -> None:
        for spec in specs:
            self._log(OWN_NAME, f"starting {spec.name}")
            refuse = self._refusals.put_nowait
            child = SupervisedChild(spec, self._policy, self._guard, self._log, self._inherit, refuse)
            self._children.append((child, asyncio.create_task(child.run())))
            await first_of(child.ready.wait(), asyncio.shield(child.first_end))

    async def _raise_refusal(self) -> None:
        raise StartRefused(str(await self._refusals.get()))


async def first_of(*works: Awaitable[object]) -> None:
    """Do all side by side until one ends, and cancel the others. Raises what an ended one raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
