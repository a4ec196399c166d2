"""A file system of 1 MiB that a test may fill to the brim. Needs root on Linux; elsewhere its tests are skipped."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MNT_DETACH = 2


@contextmanager
def small_disk_at(place: Path) -> Iterator[Path]:
    """Mount one there."""
    libc = ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if sys.platform != "linux" or libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip("a file system of a size of its own can be mounted by root alone, on Linux")
    try:
        yield place
    finally:
        libc.umount2(bytes(place), MNT_DETACH)


def fill(place: Path, leave: int = 0) -> None:
    """Leave so many bytes on it."""
    room = os.statvfs(place)
    (place / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize - leave))
