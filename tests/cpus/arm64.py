"""An arm64 Python with numpy, orjson and ONNX Runtime, unpacked into a folder; nothing is installed on this machine.

Debian's packages come through apt with a configuration of its own (its own package lists, no installed packages,
arm64 as the only architecture), so that this machine's lists and architectures stay as they are; no root is needed.
The wheels come through pip.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cpus.emulator import Python

DEBIAN_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
ONNXRUNTIME = "1.22.1"  # the newest that was seen to load under QEMU 7.2; 1.31.1 ends in a segmentation fault
WHEELS_LIKE_HERE = ("numpy", "orjson")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
APT_CONFIGURATION = """\
#clear APT::Architectures;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
"""


class NotPrepared(Exception):
    """The arm64 Python cannot be made here; the message says why."""


def prepare(folder: Path) -> Python:
    """The arm64 Python in `folder`, made there when it is missing. Raises NotPrepared."""
    root, apt = folder / "root", folder / "apt"
    if not root.is_dir():
        _download_packages(apt)
        _complete(root, lambda unpacked: _unpack(apt, unpacked))
        shutil.rmtree(apt)
    executable = next(iter(sorted((root / "usr/bin").glob("python3.[0-9]*"))))
    versions = {name: importlib.metadata.version(name) for name in WHEELS_LIKE_HERE} | {"onnxruntime": ONNXRUNTIME}
    packages = folder / "-".join(["packages", *(f"{name}-{version}" for name, version in versions.items())])
    if not packages.is_dir():
        _complete(packages, lambda unpacked: _unpack_wheels(unpacked, versions, executable.name.removeprefix("python")))
    return Python(executable.resolve(), root.resolve(), packages.resolve())


def _complete(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside `folder` and rename it, so that `folder` is there only when it is whole."""
    filling = folder.with_name(f"{folder.name}.filling")
    shutil.rmtree(filling, ignore_errors=True)
    filling.mkdir(parents=True)
    fill(filling)
    filling.rename(folder)


def _download_packages(apt: Path) -> None:
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    configuration = apt / "apt.conf"
    configuration.write_text(APT_CONFIGURATION.format(folder=apt.resolve()), encoding="utf-8")
    environment = {"APT_CONFIG": str(configuration.resolve())}
    _call(["apt-get", "-qq", "update"], environment)
    _call(["apt-get", "-qq", "--yes", "--download-only", "install", *DEBIAN_PACKAGES], environment)


def _unpack(apt: Path, root: Path) -> None:
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _call(["dpkg", "-x", str(package), str(root)])


def _unpack_wheels(packages: Path, versions: Mapping[str, str], python_version: str) -> None:
    wheels = packages.with_name("wheels")
    shutil.rmtree(wheels, ignore_errors=True)
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python_version, "--dest", str(wheels)]
    _call([sys.executable, "-m", "pip", "download", *options, *platforms, *wanted])
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    shutil.rmtree(wheels)


def _call(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise NotPrepared(f"an arm64 Python is taken from Debian's packages, which needs {command[0]}") from None
    if done.returncode != 0:
        told = f"{done.stdout}\n{done.stderr}".strip().splitlines()
        raise NotPrepared("\n".join([f"{' '.join(command[:2])} failed:", *told[-12:]]))
