"""What a killed run has left behind: ended where it is certainly ours, named where it is not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy import leftovers, lock
from deploy.leftovers import ChildRecord, FolderInUse, take_over

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "SETTLE_S", 0.5)


LEAVE_BEHIND = """
import os, subprocess, sys
from pathlib import Path
from deploy import lock
held = lock.take(Path(sys.argv[1]) / "up.lock")
left = subprocess.Popen(
    [sys.executable, "-c", sys.argv[2]], pass_fds=(held,), start_new_session=True, stdout=subprocess.PIPE
)
left.stdout.readline()
print(left.pid, flush=True)
"""


@contextmanager
def left_behind(folder: Path, code: str = SLEEP) -> Iterator[psutil.Process]:
    """A process that holds the folder's lock, started by one that has taken it and has ended since."""
    started = subprocess.run(
        [sys.executable, "-c", LEAVE_BEHIND, str(folder), code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    process = psutil.Process(int(started.stdout))
    try:
        yield process
    finally:
        if process.is_running():
            process.kill()


def test_a_child_that_is_recorded_is_ended(tmp_path: Path) -> None:
    """The next run has the lock, and says whom it ended."""
    said: list[str] = []
    with left_behind(tmp_path) as orphan:
        ChildRecord(tmp_path / "children").add(orphan.pid)
        os.close(take_over(tmp_path / "up.lock", tmp_path / "children", said.append))
        assert not psutil.pid_exists(orphan.pid) or psutil.Process(orphan.pid).status() == psutil.STATUS_ZOMBIE
    assert said == [f"ending what a run that was killed has left behind: processes {orphan.pid}"]


@pytest.mark.parametrize("record", [None, "", "{pid} 1.0\n", "{other} {started}\n", "no record\n", "\xff"])
def test_a_process_that_may_be_another_is_named_and_lives(tmp_path: Path, record: str | None) -> None:
    """Not recorded, or its number given to another process since: the message has it and the remedy."""
    with left_behind(tmp_path) as stranger:
        if record is not None:
            started = psutil.Process(stranger.pid).create_time()
            content = record.format(pid=stranger.pid, other=os.getpid(), started=started)
            (tmp_path / "children").write_bytes(content.encode("latin-1"))
        with pytest.raises(FolderInUse, match=rf"`kill {stranger.pid}`.*DEJAVEC_DATA_DIR"):
            take_over(tmp_path / "up.lock", tmp_path / "children", print)
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE


def test_a_run_that_lives_is_named_at_once(tmp_path: Path) -> None:
    """Its supervisor has the lock open."""
    code = f"from pathlib import Path; from deploy import lock; lock.take(Path({str(tmp_path)!r}) / 'up.lock'); {SLEEP}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(FolderInUse, match=rf"already up in {tmp_path} \(process {first.pid}\)"):
            take_over(tmp_path / "up.lock", tmp_path / "children", print)
        first.kill()


def test_an_orphan_guard_at_work_is_waited_for(tmp_path: Path) -> None:
    """It ends what is left itself; the next run starts when it has."""
    said: list[str] = []
    guard = tmp_path / leftovers.GUARD_FILE
    guard.write_text("import time; print('up', flush=True); time.sleep(1.5)")
    with left_behind(tmp_path, f"import runpy, sys, os; os.execv(sys.executable, [sys.executable, {str(guard)!r}])"):
        os.close(take_over(tmp_path / "up.lock", tmp_path / "children", said.append))
    assert said == ["processes of an earlier run are still stopping: waiting for their end"]


def test_the_record_follows_the_children(tmp_path: Path) -> None:
    """A line for each that runs; a folder that cannot be written to is no reason to fail."""
    record = ChildRecord(tmp_path / "children")
    record.add(os.getpid())
    assert (tmp_path / "children").read_text().startswith(f"{os.getpid()} ")
    record.remove(os.getpid())
    assert (tmp_path / "children").read_text() == ""
    elsewhere = ChildRecord(tmp_path / "missing" / "children")
    elsewhere.add(os.getpid())
    elsewhere.remove(1)


def test_a_lock_is_not_taken_twice(tmp_path: Path) -> None:
    """The lowest layer says whose it is."""
    held = lock.take(tmp_path / "up.lock")
    with pytest.raises(lock.AlreadyRunning) as caught:
        lock.take(tmp_path / "up.lock")
    assert caught.value.holder == os.getpid()
    os.close(held)
