"""A cache of embeddings in a process of its own, asked by lines of JSON: see foreign/caches/worker.py."""

import base64
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from loadtest.bench.processes import BenchmarkError, end_with_input, pinned, read_line
from loadtest.figures import Vector

ADAPTERS: Final = Path(__file__).parent / "foreign" / "caches"
ANSWER_S: Final = 600.0
SHOWN: Final = 400  # characters of what a worker wrote at its end


@dataclass(frozen=True, slots=True)
class Stored:
    """Texts and their vectors, float32[texts, dimensions]: what every cache is filled with."""

    texts: Sequence[str]
    vectors: Vector


def options_for(stored: Stored, folder: Path, *, model: str, ttl_s: int, redis_url: str, url: str) -> dict[str, Any]:
    """What an adapter is told; `folder` is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "redis_url": redis_url,
        "url": url,
        "folder": str(folder),
        "model": model,
        "ttl_s": ttl_s,
        "texts": list(stored.texts),
        "vectors": base64.b64encode(stored.vectors.astype("<f4").tobytes()).decode(),
        "dimensions": stored.vectors.shape[1],
    }


class CacheProcess:
    """An opened cache; `packages` has its versions. A context manager."""

    def __init__(self, python: str, adapter: Path, options: Mapping[str, Any], core: int | None, *, ours: bool) -> None:
        """Start it on `core`, with one thread for numbers and nothing of ours unless it is. Raises BenchmarkError."""
        folder = Path(options["folder"])
        file, self._log_file = folder / "options.json", folder / "worker.log"
        file.write_bytes(orjson.dumps(options))
        pipe = subprocess.PIPE
        command = (python, str(ADAPTERS / "worker.py"), str(adapter), str(file))
        with self._log_file.open("wb") as log, pinned(core):
            try:
                self._process = subprocess.Popen(  # noqa: S603  # a list
                    command, stdin=pipe, stdout=pipe, stderr=log, cwd=folder, env=environment(ours=ours)
                )
            except OSError as error:
                raise BenchmarkError(f"{python} cannot be started: {error}") from None
        try:
            self.packages: dict[str, str] = self._read()["packages"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def ask(self, do: str, texts: Sequence[str], **more: Any) -> dict[str, Any]:
        """What the worker's method `do` returns. Raises BenchmarkError where it fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(orjson.dumps({"do": do, "texts": list(texts), **more}) + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._failure() from None
        answer = self._read()
        if "failed" in answer:
            raise BenchmarkError(answer["failed"])
        return answer

    def close(self) -> None:
        """It ends with its input; what does not is killed."""
        end_with_input(self._process)

    def _read(self) -> dict[str, Any]:
        line = read_line(self._process, ANSWER_S)
        if line is None:
            raise self._failure()
        answer: dict[str, Any] = orjson.loads(line)
        return answer

    def _failure(self) -> BenchmarkError:
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return BenchmarkError("; ".join(lines[-3:])[-SHOWN:] or "it ended without a word")


def environment(*, ours: bool) -> dict[str, str]:
    """One thread for numbers; no PYTHONPATH for others, and no PATH: GPTCache would install what it misses with pip."""
    kept = {name: value for name, value in os.environ.items() if ours or name not in {"PYTHONPATH", "PATH"}}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
