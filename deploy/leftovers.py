"""Processes of an earlier run that outlived its supervisor and its orphan guard, and still hold the folder's lock.

    record = ChildRecord(folder / "children")       # the supervisor's: which children it has started
    held = take_over(lock_path, record_path, say)   # the next run's: the lock, once what is left has been ended

A process is ended only when it is certain to be ours: it has the lock open, and is in the record of children with its
very start time, so that its number was not given to another one since. Any other that has the lock open is named.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from deploy import lock, orphan_guard

GUARD_FILE = Path(orphan_guard.__file__).name
GUARD_S = orphan_guard.GRACE_S + 5.0  # for an orphan guard that is at work
SETTLE_S = 3.0  # for another `up` that has the file open for a moment, and for processes that were just killed
CHECK_S = 0.1
SAME_START_S = 2.0  # psutil counts from the boot, whose time moves with the clock by a little


class FolderInUse(Exception):
    """The folder cannot be had; the message names the processes and the remedy."""


class ChildRecord:
    """The children that run now, each with its start time, in a file; kept as well as a full disk allows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[int, str] = {}
        self._write()

    def add(self, process_id: int) -> None:
        """This child was started."""
        with suppress(psutil.Error):
            self._lines[process_id] = f"{process_id} {psutil.Process(process_id).create_time()}\n"
        self._write()

    def remove(self, process_id: int) -> None:
        """This child has ended."""
        self._lines.pop(process_id, None)
        self._write()

    def _write(self) -> None:
        with suppress(OSError):
            self._path.write_text("".join(self._lines.values()), encoding="ascii")


def take_over(path: Path, record: Path, say: Callable[[str], None]) -> int:
    """The lock of `path`, once what an earlier run left behind has ended. Raises FolderInUse, OSError."""
    guard_until_s = time.monotonic() + GUARD_S
    refuse_at_s = time.monotonic() + SETTLE_S
    waiting = ended = False
    while True:
        try:
            return lock.take(path)
        except lock.AlreadyRunning as error:
            holders = list(_holders(path))
            if _is_running(error.holder, holders):
                raise FolderInUse(_already_up(path, error.holder)) from None
        if any(map(_is_guard, holders)) and time.monotonic() < guard_until_s:
            if not waiting:
                say("processes of an earlier run are still stopping: waiting for their end")
            waiting = True
            refuse_at_s = time.monotonic() + SETTLE_S
        elif not ended and (ours := [process.pid for process in holders if _is_recorded(process, record)]):
            say(f"ending what a run that was killed has left behind: processes {_list(ours)}")
            orphan_guard.end(set(ours))
            ended = True
            refuse_at_s = time.monotonic() + SETTLE_S
        elif time.monotonic() > refuse_at_s:
            raise FolderInUse(_held(path, [process.pid for process in holders]))
        time.sleep(CHECK_S)


def _holders(path: Path) -> Iterator[psutil.Process]:
    """Processes that have the file open, as far as this user may see."""
    wanted = path.stat()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(
                os.path.samestat(os.stat(file.path), wanted) for file in process.open_files()
            ):
                yield process


def _is_running(supervisor: int, holders: Sequence[psutil.Process]) -> bool:
    """Whether the process that has locked the file lives, its number not given to another one since."""
    if holders:
        return any(process.pid == supervisor for process in holders)
    return supervisor > 0 and psutil.pid_exists(supervisor)  # another user's, whose files are not seen


def _is_recorded(process: psutil.Process, record: Path) -> bool:
    """Whether the supervisor has started this very process; children lead process groups, which are ended whole."""
    with suppress(OSError, ValueError, psutil.Error):
        for line in record.read_text(encoding="ascii").splitlines():
            process_id, started_s = line.split()
            if process.pid == int(process_id) and abs(process.create_time() - float(started_s)) < SAME_START_S:
                return os.getpgid(process.pid) == process.pid
    return False


def _is_guard(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(Path(word).name == GUARD_FILE for word in process.cmdline())
    return False


def _already_up(path: Path, supervisor: int) -> str:
    return (
        f"dejavec is already up in {path.parent} (process {supervisor}). Stop that one with Ctrl-C or "
        f"`kill {supervisor}`, or give this one a folder of its own: DEJAVEC_DATA_DIR=..."
    )


def _held(path: Path, process_ids: Sequence[int]) -> str:
    other = "or give this run a folder of its own: DEJAVEC_DATA_DIR=..."
    if not process_ids:
        return f"{path} is locked by a process that only root can see (`fuser {path}`): end that one, {other}"
    return (
        f"{path} is held open by processes that no run of dejavec watches any more: {_list(process_ids)}. End them "
        f"with `kill {' '.join(map(str, sorted(process_ids)))}` (`kill -9` where that does not help), {other}"
    )


def _list(process_ids: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(process_ids)))
