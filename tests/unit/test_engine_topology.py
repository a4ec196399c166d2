"""Cores come from the cgroup, and become sessions and threads."""

import os
from pathlib import Path

import pytest

from engine.model.topology import choose, usable_cores


def cores(root: Path, membership: str, files: dict[str, str]) -> float:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "membership").write_text(membership)
    return usable_cores(root, root / "membership")


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 64 cores whose affinity allows all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {}, 64),
        ("", {}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, 0.5),
        ("0::/outside/of/namespace\n", {"cpu.max": "300000 100000"}, 3),
        ("4:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1", "cpu,cpuacct/x/cpu.cfs_period_us": "1"}, 64),
        (
            "4:cpu,cpuacct:/x\n3:memory:/y\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, 64),
    ],
)
def test_the_quota_counts_not_the_host(tmp_path: Path, membership: str, files: dict[str, str], expected: float) -> None:
    """The least quota of the cgroup and those around it, v1 or v2, bounds the cores."""
    assert cores(tmp_path, membership, files) == expected


def test_the_affinity_counts_not_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process pinned to three cores has three."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 9}, raising=False)
    assert cores(tmp_path, "0::/\n", {"cpu.max": "max 100000"}) == 3


@pytest.mark.parametrize("count", [0.5, 1, 1.9, 2, 3, 4, 6, 8, 16, 64])
def test_automatic_never_takes_more_threads_than_cores(count: float) -> None:
    """At least one thread, and no more than whole cores."""
    topology = choose(count)
    assert 1 <= topology.sessions * topology.threads <= max(1, count)


@pytest.mark.parametrize(("sessions", "threads", "expected"), [(2, 0, (2, 4)), (0, 2, (4, 2)), (3, 5, (3, 5))])
def test_given_numbers_are_kept(sessions: int, threads: int, expected: tuple[int, int]) -> None:
    """What the operator sets is not changed; only what is automatic follows from the cores."""
    topology = choose(8, sessions, threads)
    assert (topology.sessions, topology.threads) == expected
