"""The workers' metrics: where their files lie, and that a full disk ends no worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import metrics_storage
from gateway.metrics_storage import FILE_BYTES, LOCK_FILE, PREFIX, VARIABLE, WORKER_BYTES, folder_for, remove_abandoned
from tests.small_disk import fill

ROOT = Path(__file__).parents[2]
# One worker: everything that the application counts is made, and some of it counted.
WORKER = """
import os, sys
from gateway import metrics_storage
metrics_storage.reserve()
from gateway import app, gauges, metrics, settings
from cache.semantic.tier import PartitionFigures
for status in range(200, 600): metrics.REQUESTS.labels(str(status)).inc()
metrics.IN_FLIGHT.inc()
for number in range(gauges.MAX_NAMESPACES):
    labels = "m" * 64, f"{number:02}" + "n" * 61
    gauges.publish_partition(labels, PartitionFigures(labels[1], 0.9, 2.0, 1, True, 0.05, 10, 1))
for number in range(settings.MAX_MODELS):
    model = metrics.ModelMetrics(f"{number:02}" + "m" * 62)
    model.engine_call.observe(0.1)
    metrics.ENGINE_READY.labels(f"{number:02}" + "m" * 62).set(1)
for number in range(metrics.MAX_SHOWN_ENGINES):
    label = metrics.shown_engine(f"{number:02}" + "e" * 71)
    metrics.ENGINE_TOKENS.labels(label).set(1)
    metrics.ENGINE_EJECTIONS.labels(label).inc()
    for state in metrics.ENGINE_STATES: metrics.ENGINE_STATE.labels(label, state).set(1)
shown = b"embeddings_requests_total" in metrics.exposition()[0]
sys.stdout.write(f"{os.environ.get('PROMETHEUS_MULTIPROC_DIR')} {shown}")
"""
MAPPED = """
import mmap, os, sys
from prometheus_client import Counter
counters = [Counter(f"x{i}", "x") for i in range(200)]
[c.inc() for c in counters]
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, VARIABLE: str(folder), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_a_full_disk_would_end_a_worker(small_disk: Path) -> None:
    """What is guarded against is real: prometheus-client alone dies of SIGBUS there."""
    fill(small_disk, leave=4096)
    assert run(MAPPED, small_disk).returncode == -7


@pytest.mark.parametrize("left", [0, 4096, FILE_BYTES["counter"], WORKER_BYTES - 4096])
def test_a_worker_starts_on_a_full_disk(small_disk: Path, left: int) -> None:
    """It counts for itself, says so, and leaves no half-made file."""
    fill(small_disk, left)
    done = run(WORKER, small_disk)
    assert (done.returncode, done.stdout) == (0, "None True")
    assert "not in the sum of all workers" in done.stderr
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_fills_later_ends_no_worker(small_disk: Path) -> None:
    """Its files have their pages before anything is counted."""
    code = WORKER.replace(
        "from gateway import app, ", f"open({str(small_disk / 'b')!r}, 'w')\nfrom gateway import app, "
    )
    fill(small_disk, leave=WORKER_BYTES)
    done = run(code, small_disk)
    assert (done.returncode, done.stdout) == (0, f"{small_disk} True"), done.stderr


def test_what_is_reserved_is_what_is_used(tmp_path: Path) -> None:
    """No kind of metric is without its file, and none outgrows it, also with all statuses and longest namespaces."""
    done = run(WORKER, tmp_path)
    assert done.stdout == f"{tmp_path} True", done.stderr
    files = {file.name.rpartition("_")[0]: file.stat().st_size for file in tmp_path.glob("*.db")}
    assert files == FILE_BYTES


def test_a_folder_that_is_not_there_ends_no_worker(tmp_path: Path) -> None:
    """One that the user has named and not made."""
    assert run(WORKER, tmp_path / "missing").stdout == "None True"


def test_the_folder_is_in_memory_and_goes_with_the_gateway() -> None:
    """Where there is such storage with room."""
    with folder_for(2) as folder:
        assert folder is not None
        assert not list(folder.glob("trial"))
        assert folder.parent == metrics_storage.MEMORY or not metrics_storage.MEMORY.is_dir()
    assert not folder.exists()


def test_without_room_in_memory_another_folder_is_taken(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one for temporary files; and where that is full too there is none, which is no reason to end."""
    monkeypatch.setattr(metrics_storage, "MEMORY", small_disk)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with folder_for(2) as folder:
        assert folder is not None
        assert folder.parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    open_files = len(os.listdir("/proc/self/fd"))
    with folder_for(2) as folder:
        assert folder is None
        assert len(os.listdir("/proc/self/fd")) == open_files
    assert list(small_disk.iterdir()) == []


def test_what_a_killed_gateway_left_is_removed(tmp_path: Path) -> None:
    """Its lock is free; that of one that runs is not, and a folder without one is not ours to judge."""
    code = "import sys, time; from pathlib import Path; from gateway import metrics_storage as m\n" + (
        "m.MEMORY = Path(sys.argv[1])\nwith m.folder_for(1) as f: print(f, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / f"{PREFIX}without-lock").mkdir()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        folder = Path(gateway.stdout.readline().strip())
        remove_abandoned(tmp_path)
        assert (folder / LOCK_FILE).exists()
        gateway.kill()
        gateway.wait()
        remove_abandoned(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == [f"{PREFIX}without-lock"]
