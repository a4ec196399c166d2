"""The limit on open files: raised where it may be, and refused with the remedy where it may not."""

import resource
import subprocess
import sys
from pathlib import Path

from common.open_files import RESERVE
from engine.cli import GATEWAY_CONNECTIONS
from engine.exit_status import CANNOT_START
from gateway.cli import ENGINE_LOOKS, REDIS_CONNECTIONS
from tests.free_ports import free_port

ROOT = Path(__file__).parents[2]


REQUESTS = 200  # at the same time, each with a connection to an engine


def limited(code: str, soft: int, hard: int, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process that starts under these limits."""
    return subprocess.run(
        [sys.executable, *(command or ("-c", code))],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **environment},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """Also when less is needed: what the process starts inherits it."""
    code = "import resource; from common.open_files import allow; print(allow(100), resource.getrlimit(7))"
    assert limited(code, 256, 2000).stdout == "2000 (2000, 2000)\n"


def test_a_hard_limit_that_is_too_low_is_refused() -> None:
    """Both numbers, and three ways to raise it."""
    code = (
        "from common.open_files import allow, TooFewOpenFiles\ntry: allow(3000)\nexcept TooFewOpenFiles as e: print(e)"
    )
    text = limited(code, 256, 2000).stdout
    for part in (
        "3000 open files are needed and 2000 are allowed",
        "ulimit -n 3000",
        "LimitNOFILE=3000",
        "nofile=3000",
    ):
        assert part in text


def test_the_gateway_compares_its_connections_with_the_limit(tmp_path: Path) -> None:
    """One message with the setting and the remedy; what just fits is no fault."""
    own = REQUESTS + ENGINE_LOOKS + REDIS_CONNECTIONS + RESERVE
    done = limited(
        "",
        256,
        1000 + own,
        *("-m", "deploy.cli", "gateway"),
        DEJAVEC_MAX_CONNECTIONS="1001",
        DEJAVEC_MAX_CONCURRENT_REQUESTS=str(REQUESTS),
        DEJAVEC_KEY_SECRET_FILE=str(tmp_path / "secret"),
        DEJAVEC_GATEWAY_PORT=str(free_port()),
    )
    assert done.returncode == CANNOT_START
    assert "Traceback" not in done.stderr
    assert f"{1001 + own} open files are needed and {1000 + own} are allowed" in done.stderr
    assert "Error: max_connections: 1001 clients" in done.stderr
    assert "DEJAVEC_MAX_CONNECTIONS lower" in done.stderr
    call = f"from gateway.cli import _allow_connections; _allow_connections(1000, {REQUESTS})"
    fits = limited(call, 256, 1000 + own)
    assert (fits.returncode, fits.stderr) == (0, "")


def test_the_engine_refuses_a_limit_that_one_gateway_exceeds(tmp_path: Path) -> None:
    """Before it loads a model."""
    done = limited("", 200, 200, "-m", "deploy.cli", "engine", DEJAVEC_MODEL_BUNDLE=str(tmp_path))
    assert done.returncode == CANNOT_START
    assert f"{GATEWAY_CONNECTIONS + RESERVE} open files are needed and 200 are allowed" in done.stderr
