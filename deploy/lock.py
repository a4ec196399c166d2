"""One `dejavec up` in a data folder at a time.

The lock is on an open file that every process of a run inherits, so it is free only when the last of them has
gone: two Redis servers never write one append-only file, not even after the supervisor was killed. Whose it is when it
is not free, and how to free it, is in `deploy.leftovers`.

filelock's FileLock unlocks the open file for all that inherited it, on release and when it is collected; its
`lock_descriptor` (3.30) would replace no more than the one call of flock below.
"""

import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another run holds the folder; `holder` is its supervisor's process, 0 where the file does not tell."""

    def __init__(self, path: Path, holder: int) -> None:
        super().__init__(f"{path} is locked by a run of process {holder or 'unknown'}")
        self.holder = holder


def take(path: Path) -> int:
    """Lock `path`, write this process's id into it and return its descriptor. Raises AlreadyRunning, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(path, int(holder) if holder.isdecimal() else 0) from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
