"""One `dejavec up` in a data folder at a time.

The lock is on an open file that every process of a run inherits, so it is free only when the last of them has
gone: two Redis servers never write one append-only file, not even after the supervisor was killed.

filelock's FileLock unlocks the open file for all that inherited it, on release and when it is collected; its
`lock_descriptor` (3.30) would replace no more than the one call of flock below.
"""

import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another run holds the folder; the message names it."""


def take(path: Path) -> int:
    """Lock `path`, write this process's id into it and return its descriptor. Raises AlreadyRunning."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(_explain(path, holder)) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _explain(path: Path, holder: str) -> str:
    if holder.isdigit() and _is_alive(int(holder)):
        return (
            f"dejavec is already up in {path.parent} (process {holder}). Stop that one with Ctrl-C or "
            f"`kill {holder}`, or give this one a folder of its own: DEJAVEC_DATA_DIR=..."
        )
    return f"processes of an earlier run in {path.parent} are still stopping; try again in a few seconds."


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
