"""Where several workers keep their metrics, so that no full disk can end one.

prometheus-client maps a file for each kind of metric and process; a write to a page that the disk has no room for is
SIGBUS, which ends the worker and each one after it. So the folder lies in memory where there is such storage
(/dev/shm), and each worker fills its files with zeros before they are mapped: their pages exist from then on, and want
of room is an error that can be met. Nothing here imports prometheus-client, which looks for the folder when imported.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's own
MEMORY: Final = Path("/dev/shm")  # noqa: S108  the folder in it is made by mkdtemp
PREFIX: Final = "dejavec-metrics-"
LOCK_FILE: Final = "lock"
# Bytes of each kind's file. prometheus-client makes them of 64 KiB and lets them grow, which here must not happen:
# histograms of each stage and model, and gauges by namespace and engine, all bounded in number, need more than that.
FILE_BYTES: Final = {
    "counter": 131_072,
    "histogram": 262_144,
    "gauge_livesum": 65_536,
    "gauge_livemin": 65_536,
    "gauge_livemax": 131_072,
    "gauge_livemostrecent": 131_072,
}
WORKER_BYTES: Final = sum(FILE_BYTES.values())
MAX_FILES: Final = 512  # an ended worker's counts stay, in two files of 384 KiB

log = logging.getLogger("dejavec.gateway")


@contextmanager
def folder_for(workers: int) -> Iterator[Path | None]:
    """A folder that has room for so many workers' metrics, removed at the end; None where there is none."""
    for place in _places():
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        except OSError:
            continue
        with ExitStack() as held:
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                held.callback(os.close, _hold(folder))
                _prove_room(folder, workers)
            except OSError as error:
                log.info("no room for metrics in %s: %s", place, error.strerror)
                continue
            yield folder
            return
    log.warning("no folder has room for the workers' metrics: /metrics shows those of the worker that answers")
    yield None


def reserve() -> None:
    """In a worker, before prometheus-client is imported: make its files, or leave the worker to count for itself."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    made: list[Path] = []
    try:
        if len(os.listdir(folder)) > MAX_FILES:
            raise OSError(0, f"{MAX_FILES} files of workers that ended are there")
        for kind, size in FILE_BYTES.items():
            made.append(Path(folder, f"{kind}_{os.getpid()}.db"))
            with suppress(FileExistsError):  # in a folder of the user's own: a process of this number before us
                _fill(made[-1], size)
    except OSError as error:
        for path in made:
            path.unlink(missing_ok=True)
        del os.environ[VARIABLE]
        log.warning("this worker's metrics are not in the sum of all workers: %s: %s", folder, error.strerror)


def drop_gauges_of_ended() -> None:
    """Remove the gauges of workers that have ended: what one said last of now is no longer so. Their counts stay."""
    for file in Path(os.environ[VARIABLE]).glob("gauge_live*_*.db"):
        number = file.stem.rpartition("_")[2]
        if number.isdigit() and not _is_alive(int(number)):
            file.unlink(missing_ok=True)


def remove_abandoned(place: Path = MEMORY) -> None:
    """Remove the folders of gateways that were killed: their locks are free."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.geteuid() and not folder.is_symlink():
                os.close(_hold(folder, os.O_RDWR))
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _places() -> Iterator[Path]:
    if MEMORY.is_dir():
        remove_abandoned()
        yield MEMORY
    with suppress(OSError):  # no folder for temporary files can be written to
        yield Path(tempfile.gettempdir())


def _hold(folder: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """Lock the folder for as long as this process lives. Raises OSError where another one does, or it has no lock."""
    descriptor = os.open(folder / LOCK_FILE, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _prove_room(folder: Path, workers: int) -> None:
    """Write as much as the workers will need, twice over for those that take the place of others. Raises OSError."""
    trial = folder / "trial"
    try:
        _fill(trial, 2 * workers * WORKER_BYTES)
    finally:
        trial.unlink(missing_ok=True)


def _fill(path: Path, size: int) -> None:
    """Make a file of zeros that has all its pages. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        left = size
        while left:
            left -= file.write(bytes(min(left, 1 << 20)))
