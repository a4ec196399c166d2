"""How many cores this process may use, and how many runs of how many threads to make of them.

Counts what the cgroup grants, not what the host has. Pure file reading and arithmetic.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

# One-thread runs side by side beat one run of many threads: on two cores, MiniLM in INT8, single short texts at 32
# connections gave 977 against 699 texts/s, requests of 32 gave 1,194 against 1,012, and a lone short text was faster
# too (2.8 against 3.4 ms), since threads that may not spin are slow to wake. They share one copy of the weights.
# Beyond this many the one event loop would be what limits short texts, and threads are the better use of cores.
MAX_AUTOMATIC_SESSIONS = 8


@dataclass(frozen=True, slots=True)
class Topology:
    """`sessions` runs at the same time, of `threads` threads each, on `cores` cores."""

    cores: float
    sessions: int
    threads: int


def usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Cores of the CPU affinity, or of the cgroup's quota (v2 `cpu.max`, v1 CFS) where that is less."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(affinity), *_quotas(cgroup_root, membership)])


def choose(cores: float, sessions: int = 0, threads: int = 0) -> Topology:
    """Resolve 0 ("automatic") in `sessions` and `threads` for this many cores; given numbers are kept."""
    whole = max(1, math.floor(cores))
    if not sessions:
        sessions = max(1, min(whole, MAX_AUTOMATIC_SESSIONS) if not threads else whole // threads)
    return Topology(cores, sessions, threads or max(1, whole // sessions))


def _quotas(root: Path, membership: Path) -> list[float]:
    """The quota, in cores, of this process's cgroup and of every cgroup around it."""
    quotas = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_v2_quota(folder) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                quotas += [_v1_quota(folder) for folder in _upwards(root / mount, path)]
    return [quota for quota in quotas if quota is not None]


def _upwards(root: Path, path: str) -> list[Path]:
    """The cgroup's folder and its parents up to `root`; inside a container often only `root` exists."""
    folder = root / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]


def _v2_quota(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()  # "max 100000" or "150000 100000", in microseconds
    return _cores(words[0], words[1]) if len(words) == 2 else None


def _v1_quota(folder: Path) -> float | None:
    return _cores(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _cores(quota_us: str, period_us: str) -> float | None:
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
