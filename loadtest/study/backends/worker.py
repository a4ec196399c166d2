"""One candidate of the study in a process of its own: commands as lines of JSON on stdin, answers on stdout.

    python worker.py BACKEND.py OPTIONS.json [prepare]

BACKEND.py is a backend of this folder, or a file of the user's. It has

    load(options) -> an object with
        encode(texts: list[str]) -> float32[n, dimensions], each vector of length 1; the texts are one batch
        files: list of the paths that are loaded, for their size
        clock: optional, a function of seconds used so far; by default the CPU time of this process and its children
        close(): optional
    prepare(options): optional, run before in a process of its own: converts the model into options["folder"]
    PACKAGES: distributions whose versions are reported

Options: checkpoint (the FP32 model's folder), bundle (dejavec's), folder (of this backend, kept between runs),
max_tokens, calibration (texts). Runs with the candidate's Python, so this file needs NumPy alone.
"""

import base64
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Load the backend, say so, then answer commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that a backend's servers are stopped too
    backend, options = open_backend(Path(sys.argv[1])), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if sys.argv[3:] == ["prepare"]:
        if hasattr(backend, "prepare"):
            backend.prepare(options)
        return
    before_bytes, started_s = resident_bytes(os.getpid()), time.perf_counter()
    loaded = backend.load(options)
    try:
        ready = {
            "load_s": time.perf_counter() - started_s,
            "before_bytes": before_bytes,
            "resident_bytes": all_resident_bytes(),
            "size_bytes": sum(size_of(Path(file)) for file in loaded.files),
            "packages": versions(getattr(backend, "PACKAGES", ())),
        }
        answer(answers, ready)
        for line in sys.stdin:
            answer(answers, reply(loaded, json.loads(line)))
    finally:
        if hasattr(loaded, "close"):
            loaded.close()


def open_backend(file: Path) -> Any:
    """The backend's module."""
    sys.path.insert(0, str(Path(__file__).parent))
    spec = importlib.util.spec_from_file_location("backend", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reply(loaded: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Do what a command says: `vectors` of texts, or `time` them, `batch` texts at a time."""
    texts, size = command["texts"], command["batch"]
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    if command["do"] == "vectors":
        vectors = np.concatenate([np.asarray(loaded.encode(group), dtype="<f4") for group in groups])
        return {"vectors": base64.b64encode(vectors.tobytes()).decode(), "dimensions": vectors.shape[1]}
    clock, used_s, wall_s = getattr(loaded, "clock", cpu_seconds), [], []
    for group in groups:
        used_before, wall_before = clock(), time.perf_counter()
        loaded.encode(group)
        used_s.append(clock() - used_before)
        wall_s.append(time.perf_counter() - wall_before)
    return {"used_s": used_s, "wall_s": wall_s, "resident_bytes": all_resident_bytes()}


def cpu_seconds() -> float:
    """CPU time of this process, and of all that it started."""
    return time.process_time() + cpu_seconds_of_children()


def cpu_seconds_of_children() -> float:
    """CPU time of all threads of what this process started, in nanoseconds' resolution where the kernel has it."""
    total = 0.0
    for pid in descendants(os.getpid()):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, IndexError, ValueError):
                total += int(task.read_text(encoding="ascii").split()[0]) / 1e9
    return total


def descendants(pid: int) -> list[int]:
    """Processes that `pid` started, and those that these started."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text(encoding="ascii").split()):
                found += [child, *descendants(child)]
    return found


def all_resident_bytes() -> int:
    """Resident memory of this process and of all that it started."""
    return sum(resident_bytes(pid) for pid in [os.getpid(), *descendants(os.getpid())])


def resident_bytes(pid: int) -> int:
    """Resident memory of one process; 0 where the system does not tell."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def versions(packages: Any) -> dict[str, str]:
    """The installed ones of these distributions."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def answer(answers: Any, content: dict[str, Any]) -> None:
    """One line of JSON."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
