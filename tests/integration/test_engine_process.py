"""The engine as a process of its own: how it ends, by signal or by a run that hangs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from engine.batching.heartbeat import EXIT_HUNG
from engine.exit_status import CANNOT_START
from engine.protocol import CONTENT_TYPE, decode_response, encode_request

PATIENCE_S = 120.0
REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def ready(url: str) -> bool:
    try:
        return httpx.get(url + "/ready").status_code == 200
    except httpx.TransportError:
        return False


def post(url: str, first: int) -> httpx.Response:
    return httpx.post(
        url + "/vectors", content=encode_request([[first]]), headers={"content-type": CONTENT_TYPE}, timeout=PATIENCE_S
    )


@contextmanager
def engine_process(folder: Path, hang_s: float, sleep_s: float) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "tests.integration.engine_that_hangs",
        folder,
        str(port),
        str(hang_s),
        str(sleep_s),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=REPOSITORY)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: ready(url))
        yield url, process
    finally:
        process.kill()
        process.communicate()


def engine_command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`dejavec engine` until it ends, in a folder without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DEJAVEC_")}
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "engine", *options],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "DEJAVEC_ENGINE_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_hung_run_ends_the_process(tmp_path: Path) -> None:
    """Its waiters are answered, then the process exits with 70 for its supervisor to restart it."""
    with engine_process(tmp_path, hang_s=0.5, sleep_s=PATIENCE_S * 2) as (url, process):
        answer = post(url, 3)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "engine_failed")
        assert process.wait(PATIENCE_S) == EXIT_HUNG


def test_sigterm_drains(tmp_path: Path) -> None:
    """A request that runs when SIGTERM comes is answered, and the process exits with 0."""
    with engine_process(tmp_path, hang_s=PATIENCE_S, sleep_s=1.0) as (url, process), ThreadPoolExecutor() as pool:
        answer = pool.submit(post, url, 3)
        until(lambda: b"embedding_batch_queue_size 1.0" in httpx.get(url + "/metrics").content)  # a heartbeat waits
        process.send_signal(signal.SIGTERM)
        assert decode_response(answer.result().content).shape == (1, 8)
        assert process.wait(PATIENCE_S) == 0


def test_a_missing_bundle_is_said_in_one_line(tmp_path: Path) -> None:
    """Without a bundle the process exits with CANNOT_START and a line that names the remedy, not a stack trace."""
    done = engine_command(tmp_path, "--bundle", str(tmp_path / "none"))
    assert done.returncode == CANNOT_START
    assert done.stderr.splitlines()[-1].startswith("Error: no model bundle at ")
    assert "dejavec model build" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_ends_the_engine_in_the_same_way(tmp_path: Path) -> None:
    """click's own refusals keep to the contract: the same status, the same form of the last line."""
    done = engine_command(tmp_path, "--port", "none")
    assert done.returncode == CANNOT_START
    assert done.stderr.splitlines()[-1].startswith("Error: Invalid value for '--port'")
