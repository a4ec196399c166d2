"""The orphan guard: a tiny process that ends the supervisor's children when the supervisor can no longer do it.

The supervisor writes `hold <group>` and `release <group>` into this process's standard input. End of file
without a `done` before it means that the supervisor was killed (kill -9, out of memory): every group still
held gets SIGTERM, and SIGKILL after GRACE_S. Against Linux's PR_SET_PDEATHSIG this also reaches grandchildren
(the gateway's workers), works on macOS, and needs no code between fork and exec. It runs as a plain script
with `python -S -E`, standard library only, so that it costs little.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the script needs none of it
    from deploy.leftovers import ChildRecord

GRACE_S = 15.0


class OrphanGuard:
    """The supervisor's end: names the process groups that must not outlive it, and records them for the next run."""

    def __init__(self, inherit: tuple[int, ...] = (), record: "ChildRecord | None" = None) -> None:
        self._record = record
        command = [sys.executable, "-S", "-E", __file__]
        # Of a session of its own: neither Ctrl-C nor a closed terminal ends it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=inherit, cwd="/"
        )

    def hold(self, group: int) -> None:
        """End this process group should the supervisor vanish."""
        self._write(f"hold {group}\n")
        if self._record is not None:
            self._record.add(group)

    def release(self, group: int) -> None:
        """The group has ended."""
        self._write(f"release {group}\n")
        if self._record is not None:
            self._record.remove(group)

    def close(self) -> None:
        """The supervisor leaves in order: nothing is left to end."""
        self._write("done\n")
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # the guard was killed: the children run on without it
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


def held_at_the_end(lines: Iterable[str]) -> set[int]:
    """Read the supervisor's lines until they end; which groups it left behind."""
    held: set[int] = set()
    for line in lines:
        word, _, group = line.strip().partition(" ")
        if word == "hold":
            held.add(int(group))
        elif word == "release":
            held.discard(int(group))
        elif word == "done":
            return set()
    return held


def end(groups: set[int], grace_s: float = GRACE_S) -> None:
    """SIGTERM to all groups, SIGKILL to those still there after the grace."""
    deadline = time.monotonic() + grace_s
    left = {group for group in groups if _signalled(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if _signalled(group, 0)}
    for group in left:
        _signalled(group, signal.SIGKILL)


def _signalled(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end(held_at_the_end(sys.stdin))
