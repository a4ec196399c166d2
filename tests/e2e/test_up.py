"""`dejavec up` with its real processes: one command brings all up, one Ctrl-C takes all down, and nothing stays.

The model is a tiny one, made in a moment; what the real one answers is tested elsewhere.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import lock
from deploy.embedded_redis import NotAvailable, locate
from deploy.ports import refusal
from engine.exit_status import CANNOT_START
from tests.e2e.stack import Run, answers, is_gone, running, until
from tests.running_redis import RunningRedis

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run that several tests share; each leaves it serving."""
    with running(tmp_path_factory.mktemp("up")) as run:
        yield run


def test_it_serves_and_says_where(up: Run) -> None:
    """The page names Redis with RediSearch, the model and the address; the example's request is answered."""
    assert "with RediSearch" in up.printed
    assert "model     tiny" in up.printed
    assert f"curl -i http://127.0.0.1:{up.port}/v1/embeddings" in up.printed
    assert len(up.embed()) == 8


def test_no_password_is_shown(up: Run) -> None:
    """Neither the process list nor the terminal nor a log file has the password of the embedded Redis."""
    folder = Path(psutil.Process(up.process.pid).cwd()) / ".dejavec"
    password = (folder / "redis" / "password").read_text()
    lines = [" ".join(process.cmdline()) for process in up.children()]
    logs = [log.read_text() for log in (folder / "logs").iterdir()]
    assert not any(password in text for text in [up.printed, *lines, *logs])


def test_a_second_run_in_the_same_folder_says_so(up: Run) -> None:
    """It names the first one's process and leaves it alone."""
    folder = psutil.Process(up.process.pid).cwd()
    command = [sys.executable, "-m", "deploy.cli", "up"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    second = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"already up in {folder}/.dejavec (process {up.process.pid})" in second.stderr
    assert answers(up)


@pytest.mark.parametrize("name", ["engine", "redis-server", "gateway"])
def test_a_killed_child_comes_back(up: Run, name: str) -> None:
    """kill -9 of each in turn: the log says so, another takes its place, requests are answered again."""
    victim = up.child(name)
    who = name.removesuffix("-server")
    victim.kill()
    until(lambda: f"{who} was ended by SIGKILL" in up.printed, "the log line")
    until(lambda: answers(up), "an answer")
    until(lambda: up.named(name), "another process")


def test_a_hung_child_is_restarted(up: Run) -> None:
    """An engine that is stopped (SIGSTOP) answers no checks and is replaced."""
    victim = up.child("engine")
    victim.suspend()
    until(lambda: "engine failed 4 checks in a row" in up.printed, "the log line")
    until(lambda: is_gone(victim), "the end of the hung one")
    until(lambda: answers(up), "an answer")


def test_your_own_redis_is_used(tmp_path: Path, redis: RunningRedis) -> None:
    """DEJAVEC_REDIS_URL: no other Redis is started, and its password is not shown."""
    with running(tmp_path, DEJAVEC_REDIS_URL=redis.url) as run:
        assert not run.named("redis-server")
        assert f"redis://***@127.0.0.1:{redis.instance.port}" in run.printed
        assert "with RediSearch" in run.printed
        assert run.end(signal.SIGTERM) == 0
    assert redis.instance.password not in run.printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_everything_in_order(tmp_path: Path, number: int) -> None:
    """Gateway, engine, Redis, in this order; exit status 0; no process, no port, no lock stays."""
    with running(tmp_path) as run:
        family = run.children()
        assert len(family) == 4  # orphan guard, Redis, engine, gateway
        assert run.end(number) == 0
        assert all(map(is_gone, family))
    steps = [run.printed.index(f"stopping {name}") for name in ("gateway", "engine", "redis")]
    assert steps == sorted(steps)
    assert "bye bye" in run.printed  # Redis wrote its append-only file out
    assert refusal(run.port) is None
    os.close(lock.take(tmp_path / ".dejavec" / "up.lock"))


def test_kill_nine_of_the_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    """The orphan guard ends the whole family, and only then is the folder free for another run."""
    with running(tmp_path, DEJAVEC_GATEWAY_WORKERS="2") as run:
        family = run.children()
        assert len(family) >= 6  # orphan guard, Redis, engine, gateway and its workers
        run.end(signal.SIGKILL)
        until(lambda: all(map(is_gone, family)), "the end of the family")


def test_what_outlives_the_supervisor_and_its_guard_is_taken_over(tmp_path: Path) -> None:
    """kill -9 of both leaves Redis, engine and gateway running; the next run ends them, says so, and serves."""
    with running(tmp_path, DEJAVEC_GATEWAY_WORKERS="2") as run:
        family = run.children()
        guard = next(child for child in family if any("orphan_guard" in word for word in child.cmdline()))
        os.kill(run.process.pid, signal.SIGSTOP)  # so that it does nothing about the guard's end
        guard.kill()
        run.process.kill()
        run.process.wait()
        orphans = [process for process in family if process != guard]
        assert len(orphans) >= 5  # Redis, engine, gateway, its workers
        assert not any(map(is_gone, orphans))
        ports = {"DEJAVEC_GATEWAY_PORT": str(run.port), "DEJAVEC_ENGINE_PORT": str(run.engine_port)}
        with running(tmp_path, **ports) as another:
            assert all(map(is_gone, orphans))
            assert "ending what a run that was killed has left behind" in another.printed
            another.port = run.port
            assert answers(another)
            assert another.end(signal.SIGTERM) == 0


def test_a_taken_port_is_one_message(tmp_path: Path) -> None:
    """CANNOT_START, the port and its setting named, nothing started."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = Run(tmp_path, DEJAVEC_GATEWAY_PORT=str(port))
        assert run.wait() == CANNOT_START
    assert f"127.0.0.1:{port}" in run.printed
    assert "DEJAVEC_GATEWAY_PORT" in run.printed
    assert "Traceback" not in run.printed
