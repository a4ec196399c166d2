"""Children of a benchmark: started on a core, watched until they answer, stopped with all they started.

BenchmarkError      a benchmark cannot run; the message has what is missing and the remedy
"""

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
LOG_LINES_SHOWN = 15


class BenchmarkError(Exception):
    """A benchmark cannot run; the message has the reason and the remedy."""


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Run what follows, and start children, on one core; None leaves the choice to the kernel.

    Children inherit the mask before they run a single instruction, so every thread of theirs keeps it, and
    libraries that size their pools by it see one core.
    """
    if core is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise BenchmarkError("this platform cannot pin processes to cores: leave --core out")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        raise BenchmarkError(f"core {core} cannot be used; usable are {sorted(before)}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def run_pinned(command: Sequence[str], stdin: bytes, core: int | None, timeout_s: float) -> bytes:
    """Run a child to its end and return its stdout. Raises BenchmarkError with its stderr."""
    with pinned(core):
        process = subprocess.Popen(  # noqa: S603 (a list, never a shell)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        output, errors = process.communicate(stdin, timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise BenchmarkError(f"{command[0]} took more than {timeout_s:.0f} s") from None
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise BenchmarkError(errors.decode(errors="replace").strip()[-2000:] or f"{command[0]} failed")
    return output


class Child:
    """A server started by a benchmark; a context manager that stops it with everything it started.

    `environment` is all that it gets; None: what we have.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        variables = os.environ if environment is None else environment
        try:
            with self._log.open("wb") as log, pinned(core):
                self._process = subprocess.Popen(  # noqa: S603 (a list, never a shell)
                    command,
                    cwd=folder,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise BenchmarkError(f"{name}: {command[0]} cannot be started: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for(self, url: str, timeout_s: float = 120.0) -> None:
        """Wait until `GET url` answers 200. Raises BenchmarkError with the child's last lines."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name} ended with {self._process.returncode}:\n{self.last_lines()}")
            if status_of(url) == 200:
                return
            time.sleep(POLL_S)
        raise BenchmarkError(f"{self.name} does not answer at {url} in {timeout_s:.0f} s:\n{self.last_lines()}")

    def last_lines(self) -> str:
        """The end of what the child wrote."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not end it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                continue


def read_line(process: "subprocess.Popen[bytes]", timeout_s: float) -> bytes | None:
    """A line of what it prints; None where it ends before. A process that takes longer is killed."""
    assert process.stdout is not None
    with killed_after(process, timeout_s):
        line = process.stdout.readline()
    return line if line.endswith(b"\n") else None


def end_with_input(process: "subprocess.Popen[bytes]") -> None:
    """Close its pipes and wait until it has ended; what does not end is terminated, then killed."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            assert pipe is not None
            pipe.close()
    for end in (process.terminate, process.kill):
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            break
        end()
    process.wait()


@contextmanager
def killed_after(process: "subprocess.Popen[bytes]", timeout_s: float) -> Iterator[None]:
    """Kill it where the block takes longer."""
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def status_of(url: str, timeout_s: float = 5.0) -> int | None:
    """Status of `GET url`, None when nothing answers."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or LOOPBACK, parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
