"""A candidate in a process of its own, pinned to one core: asked by lines of JSON, ended when it does not answer."""

import base64
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import orjson

from loadtest.bench.processes import end_with_input, killed_after, pinned, read_line
from loadtest.figures import Vector
from loadtest.study.candidates import BACKENDS, Candidate, StudyError

START_S: Final = 600.0  # a conversion, or PyTorch on a busy core
ANSWER_S: Final = 3600.0
SHOWN_LINES: Final = 3
ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


class Failed(StudyError):
    """A candidate ended, or did not answer; the message has its last lines."""


class Worker:
    """A loaded candidate; `ready` is what it said of itself. A context manager."""

    def __init__(self, candidate: Candidate, options: dict[str, Any], core: int | None) -> None:
        """Convert the model where the candidate needs it, then load it. Raises Failed."""
        self.candidate = candidate
        with tempfile.NamedTemporaryFile("wb", suffix=".json", delete=False) as file:
            file.write(orjson.dumps(options))
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process: subprocess.Popen[bytes] | None = None
        try:
            command = (candidate.python, str(BACKENDS / "worker.py"), str(candidate.backend), file.name)
            self._prepare((*command, "prepare"))
            with pinned(core):
                self._process = self._started(command)
            self.ready = self._read(START_S)
        except BaseException:
            self.close()
            raise
        finally:
            os.unlink(file.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def vectors(self, texts: Sequence[str], batch: int) -> Vector:
        """float32[texts, dimensions], computed `batch` texts at a time. Raises Failed."""
        answer = self._ask("vectors", texts, batch)
        return np.frombuffer(base64.b64decode(answer["vectors"]), "<f4").reshape(-1, answer["dimensions"])

    def time(self, texts: Sequence[str], batch: int) -> dict[str, Any]:
        """`used_s` and `wall_s` of each batch, and `resident_bytes` behind the last. Raises Failed."""
        return self._ask("time", texts, batch)

    def close(self) -> None:
        """End it: it stops what it started when its input ends, and on SIGTERM."""
        if self._process is not None:
            end_with_input(self._process)
        self._log.close()

    def _ask(self, do: str, texts: Sequence[str], batch: int) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps({"do": do, "texts": list(texts), "batch": batch}) + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure() from None
        return self._read(ANSWER_S)

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process is not None
        line = read_line(self._process, timeout_s)
        if line is None:
            raise self._failure()
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def _prepare(self, command: Sequence[str]) -> None:
        process = self._started(command)
        with killed_after(process, START_S):
            process.communicate()
        if process.returncode:
            raise self._failure()

    def _started(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        ours = self.candidate.group == "ours"
        kept = {name: value for name, value in os.environ.items() if ours or name != "PYTHONPATH"}
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, env={**kept, **ONE_THREAD})  # noqa: S603  # a list
        except OSError as error:
            raise Failed(f"{command[0]} cannot be started: {error}") from None

    def _failure(self) -> Failed:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return Failed("; ".join(line.strip() for line in lines[-SHOWN_LINES:])[-400:] or "it ended without a word")


def options_for(
    candidate: Candidate, *, bundle: Path, checkpoint: Path | None, folder: Path, calibration: Sequence[str]
) -> dict[str, Any]:
    """What a backend is told: see backends/worker.py. Raises StudyError where the checkpoint is missing."""
    if checkpoint is None and candidate.group != "ours":
        raise StudyError("no FP32 checkpoint found: name its folder with --checkpoint")
    own = folder / candidate.key
    own.mkdir(parents=True, exist_ok=True)
    max_tokens = orjson.loads((bundle / "bundle.json").read_bytes())["max_tokens"]
    return {
        "bundle": str(bundle.absolute()),
        "checkpoint": str(checkpoint.absolute()) if checkpoint else "",
        "folder": str(own.absolute()),
        "max_tokens": max_tokens,
        "calibration": list(calibration),
    }
