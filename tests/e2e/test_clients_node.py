"""Clients for Node, unmodified; see `test_clients`. Each sends its key in its own header.

Skipped where there is no Node, or its packages cannot be had.
"""

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.plain_http import API_KEY, MODEL, TEXTS, assert_same, plain

SOURCES = Path(__file__).parent / "clients"
SCRIPT = "clients.mjs"
INSTALLED = Path(sys.prefix) / "node-clients"  # beside Python's packages; nothing is installed elsewhere
LOCK_FILE_IS_WRONG = {"EUSAGE", "EINTEGRITY", "EJSONPARSE"}
NAMES = [
    *("fetch", "openai", "openai, floats", "openai, Azure", "AI SDK", "AI SDK, Azure", "AI SDK, Azure by deployment"),
    *("LangChain", "LangChain, Azure", "LangChain, Ollama", "Ollama", "Hugging Face"),
]

pytestmark = pytest.mark.usefixtures("quiet_client")


def install() -> None:
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


@pytest.fixture(scope="module")
def printed(keyed_root: str) -> dict[str, dict[str, Any]]:
    """What each client got, by name; one process for all of them."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {', '.join(missing)}")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version[1:].partition(".")[0]) < 20:
        pytest.skip(f"the clients for Node need version 20, here is {version.strip()}")
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install()
        shutil.copy(SOURCES / SCRIPT, INSTALLED / SCRIPT)  # a script's imports are looked for beside it
        command = ["node", SCRIPT, keyed_root, API_KEY, MODEL, json.dumps(TEXTS)]
        done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_vectors(root: str, printed: dict[str, dict[str, Any]], name: str) -> None:
    """The same vectors in the same order as by plain HTTP."""
    assert "error" not in printed[name], printed[name]["error"]
    assert_same(printed[name]["result"], plain(root, TEXTS))


def test_openai_errors_are_its_own(printed: dict[str, dict[str, Any]]) -> None:
    """A refusal becomes the package's typed error, with our code and param, and the request's id."""
    assert printed["openai, errors"]["result"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
        "hasId": True,
    }
