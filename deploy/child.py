"""One child process: started, its output passed on, watched, stopped.

Every child leads a session and process group of its own: Ctrl-C in the terminal reaches the supervisor alone,
which then stops the children in order; and what a child leaves behind (the workers of a killed gateway) can
be swept away with its group.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from deploy.orphan_guard import OrphanGuard
from deploy.probes import Probe
from engine.exit_status import reason_in

MAX_LINE_BYTES = 64 * 1024
START_CHECK_S = 0.1
EXIT_CHECK_S = 0.1
FINAL_OUTPUT_S = 2.0  # for the rest of an ended child's output
LINES_KEPT = 40  # of the end of its output, which has the reason when it cannot start

LogLine = Callable[[str, str], None]  # (name of the process, line)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run and how to check it.

    ready: it serves, checked while it starts; alive: it has not hung, checked every watch_interval_s afterwards.
    environment is laid over the supervisor's own; prepare runs before every start. on_refused gets the reason
    when it cannot be started again while the others serve; None: they cannot serve without it. A `prepare` that raises
    OSError means that it cannot be started.
    """

    name: str
    command: tuple[str, ...]
    ready: Probe
    alive: Probe
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    on_refused: Callable[[str], None] | None = None
    stop_timeout_s: float = 10.0
    noise: str | None = None  # lines with this in them are not passed on


class NotPrepared(Exception):
    """What must be done before the start failed, and would again; the message has the file and the remedy."""


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """When a running child counts as hung: not ready in time, or so many failed checks in a row."""

    start_timeout_s: float
    interval_s: float
    failures: int


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended. `code` is the exit status, negative for a signal; `reason` what it gave itself."""

    code: int
    uptime_s: float
    hung: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.hung:
            return f"{self.hung}, so it was killed"
        if self.code < 0:
            return f"was ended by {_signal_name(-self.code)} after {self.uptime_s:.1f} s"
        return f"exited with status {self.code} after {self.uptime_s:.1f} s"


class Child:
    """A running child."""

    def __init__(self, spec: ChildSpec, process: asyncio.subprocess.Process, guard: OrphanGuard, log: LogLine) -> None:
        self.spec = spec
        self.process = process
        self._guard = guard
        self._started = time.monotonic()
        self._last_lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._pump = asyncio.create_task(self._pass_on_output(log))

    @classmethod
    async def start(cls, spec: ChildSpec, guard: OrphanGuard, log: LogLine, inherit: tuple[int, ...] = ()) -> "Child":
        """Start the process. Raises OSError when there is no such program, NotPrepared when `prepare` failed."""
        try:
            spec.prepare()
        except OSError as error:
            raise NotPrepared(
                f"{error.filename} cannot be used ({error.strerror}); mend that, or name another folder "
                "(DEJAVEC_DATA_DIR)"
            ) from None
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            env={**os.environ, **spec.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=inherit,
            limit=MAX_LINE_BYTES,
        )
        guard.hold(process.pid)
        return cls(spec, process, guard, log)

    async def watch(self, policy: WatchPolicy, on_ready: Callable[[], None]) -> End:
        """Wait until the child ends, and end it when it hangs."""
        exited = asyncio.create_task(self._exited())
        hung = asyncio.create_task(self._find_hung(policy, on_ready))
        try:
            await asyncio.wait({exited, hung}, return_when=asyncio.FIRST_COMPLETED)
            why = "" if exited.done() else hung.result()
            if why:
                self.kill()
            code, uptime_s = await exited, time.monotonic() - self._started
        finally:
            hung.cancel()
            exited.cancel()
            await self.sweep()
        return End(code, uptime_s, why, reason_in(tuple(self._last_lines)))

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when it has not left after its stop_timeout_s."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(self.spec.stop_timeout_s):
                await self._exited()
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the child and all it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def sweep(self) -> None:
        """After the child ended: end what it left behind, and pass on the rest of its output."""
        self.kill()
        self._guard.release(self.process.pid)
        with suppress(TimeoutError):
            async with asyncio.timeout(FINAL_OUTPUT_S):  # not for other processes that hold its output open
                await self._pump

    async def _exited(self) -> int:
        """Wait for the process alone; its own `wait` also waits for processes that inherited its output."""
        while self.process.returncode is None:  # noqa: ASYNC110  asyncio has no event for this
            await asyncio.sleep(EXIT_CHECK_S)
        return self.process.returncode

    async def _find_hung(self, policy: WatchPolicy, on_ready: Callable[[], None]) -> str:
        """Return why the child counts as hung; does not return while it is well."""
        while not await self.spec.ready():
            if time.monotonic() - self._started > policy.start_timeout_s:
                return f"was not ready after {policy.start_timeout_s:g} s"
            await asyncio.sleep(START_CHECK_S)
        on_ready()
        failures = 0
        while failures < policy.failures:
            await asyncio.sleep(policy.interval_s)
            failures = 0 if await self.spec.alive() else failures + 1
        return f"failed {failures} checks in a row"

    async def _pass_on_output(self, log: LogLine) -> None:
        stream = self.process.stdout
        assert stream is not None
        while True:
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                line = await stream.read(MAX_LINE_BYTES)
            except asyncio.IncompleteReadError as end:
                line = end.partial
                if not line:
                    return
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            self._last_lines.append(text)
            if self.spec.noise is None or self.spec.noise not in text:
                log(self.spec.name, text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"
