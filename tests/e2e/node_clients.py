"""Runs scripts of Node that import the clients which tests/e2e/clients/package-lock.json pins."""

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parent / "clients"
INSTALLED = Path(sys.prefix) / "node-clients"  # beside Python's packages; nothing is installed elsewhere
OLDEST = 20
LOCK_FILE_IS_WRONG = {"EUSAGE", "EINTEGRITY", "EJSONPARSE"}


def printed_by(script: str, *arguments: str) -> list[Any]:
    """The JSON of each line that a script prints; skips without Node, or where npm cannot get the packages."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version[1:].partition(".")[0]) < OLDEST:
        pytest.skip(f"the clients for Node need version {OLDEST}, here is {version.strip()}")
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install()
        file = INSTALLED / "script.mjs"  # a script's imports are looked for beside it
        file.write_text(script)
        command = ["node", str(file), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _install() -> None:
    """The locked packages, unless they are there; skips where npm cannot get them, fails where the lock is wrong."""
    lock = (SOURCES / "package-lock.json").read_bytes()
    stamp = INSTALLED / "installed.json"
    if stamp.exists() and stamp.read_bytes() == lock:
        return
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SOURCES / name, INSTALLED / name)
    command = ["npm", "ci", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=30000"]
    try:
        done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not get the clients for Node within three minutes")
    if done.returncode:
        codes = set(re.findall(r"npm (?:error|ERR!) code (\w+)", done.stderr))
        assert not codes & LOCK_FILE_IS_WRONG, done.stderr
        pytest.skip(f"npm could not get the clients for Node: {done.stderr[:500]}")
    stamp.write_bytes(lock)
