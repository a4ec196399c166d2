"""The wheel, built from this tree and installed in an environment of its own: what users have who have no clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
from pathlib import Path

import pytest

from deploy.install import ROOT
from tests.e2e.stack import until
from tests.free_ports import free_port
from tests.tiny_bert import write_checkpoint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
NO_TRACES = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; everything else it finds in the one that runs the tests. No network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=NO_TRACES)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    [wheel] = folder.glob("*.whl")
    pip("--python", environment / "bin" / "python", "install", "--no-deps", wheel)
    # A path alone: the .pth files found there, the clone's editable install among them, are not read.
    (site_packages(environment) / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return environment


def pip(*arguments: str | Path) -> None:
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def site_packages(environment: Path) -> Path:
    [folder] = environment.glob("lib/python*/site-packages")
    return folder


def variables() -> dict[str, str]:
    """This process's, without those that would lead to the clone or change a setting."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DEJAVEC_", "PYTHON"))}


def dejavec(environment: Path, folder: Path, *arguments: str) -> str:
    """What the installed command prints, when it ends well."""
    command = [environment / "bin" / "dejavec", *arguments]
    done = subprocess.run(command, cwd=folder, env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of_packages(folder: Path) -> set[str]:
    """Modules and data files, relative to `folder`, in folders that are packages."""
    found = (path for name in PACKAGES for path in (folder / name).rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder))
        for path in found
        if (path.parent / "__init__.py").exists() and path.parent.name != "__pycache__"
    }


def test_every_file_is_installed(environment: Path) -> None:
    """Modules of all rooms, calibration texts, the kernel check, the load test's texts; and nothing else."""
    installed = files_of_packages(site_packages(environment))
    assert installed == files_of_packages(ROOT)
    assert {"engine/model/kernel_check.onnx", "engine/build/calibration.txt", "loadtest/texts.txt"} <= installed
    assert not (site_packages(environment) / "deploy" / "requirements").exists()
    assets = Path("gateway") / "docs_page" / "assets"  # no package, so not among the files above
    assert {path.name for path in (site_packages(environment) / assets).iterdir()} == {
        path.name for path in (ROOT / assets).iterdir()
    }


def test_the_installed_code_runs(environment: Path, tmp_path: Path) -> None:
    """Not the clone's: the test would otherwise prove nothing."""
    code = f"import {', '.join(PACKAGES)}; print(*[each.__file__ for each in ({', '.join(PACKAGES)})])"
    command = [environment / "bin" / "python", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=variables(), capture_output=True, text=True, check=True)
    assert all(Path(file).is_relative_to(environment) for file in done.stdout.split())


def test_the_command_shows_help_version_and_settings(environment: Path, tmp_path: Path) -> None:
    """All three from any folder, without a configuration file."""
    assert "Quick start" in dejavec(environment, tmp_path, "--help")
    assert dejavec(environment, tmp_path, "--version").startswith("dejavec ")
    assert "gateway_port = 8080" in dejavec(environment, tmp_path, "config")


def test_a_built_model_is_served(environment: Path, tmp_path: Path) -> None:
    """Checkpoint to bundle to vectors, with the package's own calibration texts and kernel check."""
    write_checkpoint(tmp_path / "tiny")
    dejavec(environment, tmp_path, "model", "build", "tiny", "--out", "bundle", "--precision", "int8")
    port = free_port()
    command = [environment / "bin" / "dejavec", "engine", "--bundle", "bundle", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        engine = subprocess.Popen(command, cwd=tmp_path, env=variables(), stdout=log, stderr=log)
    try:
        until(lambda: engine.poll() is not None or is_ready(port), "the engine")
        assert engine.poll() is None, (tmp_path / "log").read_text()
        assert len(vector(port, "w1 w2 w3")) == 32
    finally:
        engine.terminate()
        assert engine.wait(120) == 0


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def vector(port: int, text: str) -> list[float]:
    """One vector from the engine's route for people."""
    headers = {"content-type": "application/json"}
    body = json.dumps({"texts": [text]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/vectors", body, headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        found: list[float] = json.load(reply)["embeddings"][0]
        return found
