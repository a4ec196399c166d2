"""One `dejavec up` with its real processes, and further gateways beside it, for end-to-end tests."""

import contextlib
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

import httpx
import psutil

from deploy.ports import refusal
from tests.free_ports import free_port
from tests.integration.engine_under_test import write_tiny_bundle

UP = "Ctrl-C stops everything."  # the last line of the start page
PATIENCE_S = 120.0


class Run:
    """One `dejavec up`, what it has printed, and the processes it has started."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.port, self.engine_port = free_port(), _free_row(2)
        own = {
            "DEJAVEC_GATEWAY_PORT": str(self.port),
            "DEJAVEC_ENGINE_PORT": str(self.engine_port),
            "DEJAVEC_WATCH_INTERVAL_S": "0.5",
            "DEJAVEC_WATCH_FAILURES": "4",
        }
        if not {"DEJAVEC_MODEL_BUNDLE", "DEJAVEC_MODELS"} & settings.keys():
            own["DEJAVEC_MODEL_BUNDLE"] = str(write_tiny_bundle(folder / "tiny"))
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

    @property
    def home(self) -> Path:
        """Where it keeps its data."""
        return Path(f"/proc/{self.process.pid}/cwd").resolve() / ".dejavec"

    @property
    def redis_url(self) -> str:
        """Its embedded Redis, password included."""
        password, port = ((self.home / "redis" / name).read_text().strip() for name in ("password", "port"))
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def children(self) -> list[psutil.Process]:
        """All processes below the supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """The first of `named`."""
        return self.named(word)[0]

    def named(self, word: str) -> list[psutil.Process]:
        """The children with this word in their command lines, which one that ends or has just begun does not have."""
        found = []
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if line and (word in line or word in line[0]):
                    found.append(child)
        return found

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it has printed this."""
        until(lambda: self.printed.count(text) >= times or self.process.poll() is not None, text)
        assert self.printed.count(text) >= times, self.printed

    def embed(self) -> list[float]:
        """One vector from the gateway."""
        body = json.dumps({"model": "tiny", "input": "a b c"}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/embeddings", body, headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            vector: list[float] = json.load(reply)["data"][0]["embedding"]
            return vector

    def wait(self) -> int:
        """Wait until it has ended by itself; returns its exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

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


def _free_row(count: int) -> int:
    """The first of that many free ports in a row: several models have one each."""
    while True:
        first = free_port()
        if not any(refusal(first + place) for place in range(1, count)):
            return first


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
            until(lambda process=process: is_gone(process), "the orphan guard ends what is left")  # type: ignore[misc]


@contextmanager
def another_gateway(stack: Run, folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """One more gateway process on the same engine and the same Redis."""
    port = free_port()
    own = {
        "DEJAVEC_REDIS_URL": stack.redis_url,
        "DEJAVEC_KEY_SECRET_FILE": str(stack.home / "key-secret"),
        "DEJAVEC_ENGINE_URL": f"http://127.0.0.1:{stack.engine_port}",
        "DEJAVEC_REDIS_TIMEOUT_MS": "2000",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "deploy.cli", "gateway", "--port", str(port)]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **own, **settings}, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until(lambda: is_ready(client), "the other gateway")
            yield client
    finally:
        process.terminate()
        assert process.wait(120) in (0, -15)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False
