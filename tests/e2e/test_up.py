"""`dejavec up` with its real processes: one command brings all up, one Ctrl-C takes all down, and nothing stays.

The model is a tiny one, made in a moment; what the real one answers is tested elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy import lock
from deploy.embedded_redis import NotAvailable, RunningRedis, locate
from deploy.ports import free_port, refusal
from tests.integration.engine_under_test import write_tiny_bundle

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

UP = "dejavec is up"
PATIENCE_S = 60.0


class Run:
    """One `dejavec up`, what it has printed, and the processes it has started."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port, self.engine_port = free_port(), free_port()
        own = {
            "DEJAVEC_GATEWAY_PORT": str(self.port),
            "DEJAVEC_ENGINE_PORT": str(self.engine_port),
            "DEJAVEC_MODEL_BUNDLE": str(write_tiny_bundle(folder / "tiny")),
            "DEJAVEC_WATCH_INTERVAL_S": "0.5",
            "DEJAVEC_WATCH_FAILURES": "4",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DEJAVEC_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "up"],
            cwd=folder,
            env={**kept, **own, **settings, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.printed = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def children(self) -> list[psutil.Process]:
        """All processes below the supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """The child with this word in its command line."""
        return next(child for child in self.children() if word in child.cmdline() or word in child.cmdline()[0])

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it has printed this."""
        until(lambda: self.printed.count(text) >= times or self.process.poll() is not None, text)
        assert self.printed.count(text) >= times, self.printed

    def embed(self) -> list[float]:
        """One vector from the gateway."""
        body = json.dumps({"model": "tiny", "input": "a b c"}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/embeddings", body, headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            vector: list[float] = json.load(reply)["data"][0]["embedding"]
            return vector

    def end(self, number: int) -> int:
        """Send a signal to the supervisor alone and wait for its end; returns its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        if number != signal.SIGKILL:  # otherwise the children hold the pipe open until they are gone
            self._reader.join(PATIENCE_S)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.printed += line


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def answers(run: Run) -> bool:
    try:
        return len(run.embed()) > 0
    except OSError:
        return False


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Run]:
    run = Run(folder, **settings)
    try:
        run.wait_for(UP)
        yield run
    finally:
        left = run.children() if run.process.poll() is None else []
        run.process.kill()
        run.process.wait()
        for process in left:
            until(lambda process=process: is_gone(process), "the leash ends what is left")  # type: ignore[misc]


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
    until(lambda: any(name in c.cmdline() or name in c.cmdline()[0] for c in up.children()), "another process")


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
        assert not [child for child in run.children() if "redis-server" in child.cmdline()[0]]
        assert f"RediSearch at redis://:***@127.0.0.1:{redis.instance.port}" in run.printed
        assert run.end(signal.SIGTERM) == 0
    assert redis.instance.password not in run.printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_everything_in_order(tmp_path: Path, number: int) -> None:
    """Gateway, engine, Redis, in this order; exit status 0; no process, no port, no lock stays."""
    with running(tmp_path) as run:
        family = run.children()
        assert len(family) == 4  # leash, Redis, engine, gateway
        assert run.end(number) == 0
        assert all(map(is_gone, family))
    steps = [run.printed.index(f"stopping {name}") for name in ("gateway", "engine", "redis")]
    assert steps == sorted(steps)
    assert "bye bye" in run.printed  # Redis wrote its append-only file out
    assert refusal(run.port) is None
    os.close(lock.take(tmp_path / ".dejavec" / "up.lock"))


def test_kill_nine_of_the_supervisor_leaves_no_orphans(tmp_path: Path) -> None:
    """The leash ends the whole family, and only then is the folder free for another run."""
    with running(tmp_path, DEJAVEC_GATEWAY_WORKERS="2") as run:
        family = run.children()
        assert len(family) >= 6  # leash, Redis, engine, gateway and its workers
        run.end(signal.SIGKILL)
        until(lambda: all(map(is_gone, family)), "the end of the family")


def test_a_taken_port_is_one_message(tmp_path: Path) -> None:
    """Exit status 2, the port and its setting named, nothing started."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = Run(tmp_path, DEJAVEC_GATEWAY_PORT=str(port))
        assert run.process.wait(PATIENCE_S) == 2
        run._reader.join()
    assert f"127.0.0.1:{port}" in run.printed
    assert "DEJAVEC_GATEWAY_PORT" in run.printed
    assert "Traceback" not in run.printed
