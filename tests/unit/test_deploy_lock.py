"""One run in a data folder at a time, and the orphan guard that outlives a killed supervisor."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import lock
from deploy.orphan_guard import end, held_at_the_end


def test_a_second_run_is_told_of_the_first(tmp_path: Path) -> None:
    """The message has the holder's process id."""
    held = lock.take(tmp_path / "up.lock")
    with pytest.raises(lock.AlreadyRunning, match=f"process {os.getpid()}"):
        lock.take(tmp_path / "up.lock")
    os.close(held)
    os.close(lock.take(tmp_path / "up.lock"))


def test_the_lock_lives_as_long_as_any_process_of_the_run(tmp_path: Path) -> None:
    """A child that inherited the lock keeps the folder closed after its parent let go."""
    held = lock.take(tmp_path / "up.lock")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,)) as child:
        os.close(held)
        with pytest.raises(lock.AlreadyRunning):
            lock.take(tmp_path / "up.lock")
        child.communicate(b"\n")
    os.close(lock.take(tmp_path / "up.lock"))


def test_what_was_released_is_not_ended() -> None:
    """Only groups held and not released count, and none when the supervisor left in order."""
    assert held_at_the_end(["hold 10\n", "hold 11\n", "release 10\n"]) == {11}
    assert held_at_the_end(["hold 10\n", "done\n"]) == set()


@pytest.mark.parametrize(("disposition", "expected"), [("SIG_DFL", signal.SIGTERM), ("SIG_IGN", signal.SIGKILL)])
def test_groups_are_asked_then_killed(disposition: str, expected: signal.Signals) -> None:
    """SIGTERM first; SIGKILL for a process that ignores it."""
    code = f"import signal, time; signal.signal(15, signal.{disposition}); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end({process.pid}, grace_s=0.2)
        assert process.wait(60) == -expected
