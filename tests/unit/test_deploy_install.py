"""Installation: done once, done again when a pin changes, and clear about what is missing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import install
from deploy.install import OPTIONAL, REQUIREMENTS, ROOT, InstallError

PINNED = [*REQUIREMENTS.values(), *(name for name, _ in OPTIONAL)]
ROLES = [f"deploy/requirements/{role}.txt" for role in ("gateway", "engine", "build", "setuptools")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that decide what is installed, and a stand-in environment."""
    for name in (*PINNED, "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip"):
        (tmp_path / ".venv" / "bin" / name).touch()
    return tmp_path


@pytest.fixture
def pip_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip was asked to install."""
    runs: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, "pip", lambda *arguments: runs.append(arguments))
    return runs


@pytest.mark.usefixtures("project")
def test_nothing_is_installed_twice(pip_runs: list[tuple[str, ...]]) -> None:
    """The second run starts no pip; what tests need covers what runs need."""
    install.install("dev")
    assert pip_runs
    pip_runs.clear()
    install.install("dev")
    install.install("runtime")
    assert pip_runs == []


def test_a_changed_pin_installs_again(project: Path, pip_runs: list[tuple[str, ...]]) -> None:
    """The stamp is a hash of contents."""
    install.install("runtime")
    pip_runs.clear()
    with (project / "requirements.txt").open("a") as file:
        file.write("# another line\n")
    install.install("runtime")
    assert pip_runs


def test_missing_embedded_parts_do_not_stop(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what that means, goes on, and tries again the next time."""

    def pip(*arguments: str) -> None:
        if "requirements-embedded.txt" in arguments:
            raise InstallError("no such wheel")

    monkeypatch.setattr(install, "pip", pip)
    install.install("runtime")
    assert "in-process cache alone" in capsys.readouterr().err
    assert not list((project / ".venv").glob("*.stamp"))


def test_a_python_without_ensurepip_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian splits venv off: the message has the package to install and the way around."""
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.raises(InstallError, match=rf"lacks ensurepip(.|\n)*python{version}-venv(.|\n)*PYTHON="):
        install.make_environment()


def test_a_failed_pip_shows_its_words(project: Path) -> None:
    """The end of pip's output is part of the error."""
    python = project / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho no matching distribution\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(InstallError, match="no matching distribution"):
        install.pip("something")


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    """Ctrl-C on the terminal reaches the installer and what it runs: neither prints a trace, and the status is 130."""
    python = tmp_path / "python3"
    python.write_text(
        f"#!/bin/sh\ntrap 'echo Traceback >&2; exit 1' INT\n: > {tmp_path}/runs\nwhile :; do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    code = (
        "import signal, sys, pathlib; from deploy import install\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"install.VENV = pathlib.Path({str(tmp_path)!r}) / '.venv'; sys.executable = {str(python)!r}\n"
        "sys.exit(install.main(['runtime']))"
    )
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        deadline_s = time.monotonic() + 60
        while not (tmp_path / "runs").exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "\nstopped; run it again, it goes on from here\n")


def test_a_failed_venv_shows_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it said is printed before the remedy."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho ensurepip is broken >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(InstallError, match="cannot make a virtual environment"):
        install.make_environment()
    assert "ensurepip is broken" in capsys.readouterr().err


def test_usage_is_shown() -> None:
    """Without an argument: exit status 2 and how to call it, on the standard library alone."""
    script = ROOT / "deploy" / "install.py"
    done = subprocess.run([sys.executable, "-S", "-E", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "runtime|dev" in done.stderr


@pytest.mark.parametrize("name", [*PINNED, *ROLES])
def test_pins_have_hashes_and_no_addresses(name: str) -> None:
    """Every requirement is exact and hashed; no file names a package index."""
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^--(index|extra-index|find-links|trusted)", text, re.MULTILINE)
    requirements = re.findall(r"^[A-Za-z0-9].*\\$", text, re.MULTILINE)
    assert requirements
    assert all("==" in line for line in requirements)
    assert len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)) == len(requirements)


def pins(name: str) -> set[str]:
    return set(re.findall(r"^[A-Za-z0-9][^ ]*==[^ ]*", (ROOT / name).read_text(), re.MULTILINE))


def test_tests_run_on_the_versions_that_users_get() -> None:
    """requirements-dev.txt has every version of requirements.txt; test tools may ask for one on more systems."""
    assert pins("requirements.txt") <= pins("requirements-dev.txt")


def test_roles_add_up_to_everything() -> None:
    """The images run on the versions that `make up` installs, and together need all of them."""
    assert set().union(*map(pins, ROLES)) == pins("requirements.txt")


@pytest.mark.parametrize(
    ("role", "absent"),
    [
        ("gateway", {"onnx", "onnxruntime", "safetensors"}),
        ("engine", {"fastapi", "redis", "onnx", "safetensors"}),
        ("build", {"fastapi", "redis", "starlette", "uvicorn"}),
    ],
)
def test_a_role_has_its_own_packages_alone(role: str, absent: set[str]) -> None:
    """No ONNX Runtime beside the gateway, no web framework and no Redis client beside the engine."""
    assert not absent & {pin.partition("==")[0] for pin in pins(f"deploy/requirements/{role}.txt")}
