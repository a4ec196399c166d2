"""One cache of embeddings in a process of its own: commands as lines of JSON on stdin, answers on stdout.

    python worker.py ADAPTER.py OPTIONS.json

ADAPTER.py is a file of this folder. It has

    open_cache(options, embed) -> look_up(texts), which returns a row of numbers for each text
    PACKAGES: distributions whose versions are reported

`look_up` asks the cache for all texts at once where it can, and calls `embed` for those that are missing. Options:
redis_url, url and server_model (of a server, where the cache is one), folder, model, ttl_s, dimensions, texts, vectors
(base64 of float32 rows).
`embed` answers at once out of these and counts, so that what is timed is the cache. Runs with the peer's Python, so
this file needs NumPy alone.
"""

import base64
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 8
PAUSE_S = 0.2  # of the embedder, while several threads ask for the same new text
NO_REDIS = "redis://127.0.0.1:1/0"
LookUp = Callable[[list[str]], Sequence[Any]]


class Instant:
    """An embedder that has all vectors; `embedded` counts the texts it was asked for."""

    def __init__(self, texts: list[str], vectors: Any) -> None:
        self._rows = dict(zip(texts, vectors.tolist(), strict=True))
        self.embedded, self.pause_s = 0, 0.0

    def __call__(self, texts: list[str]) -> list[list[float]]:
        """A row for each text."""
        time.sleep(self.pause_s)
        self.embedded += len(texts)
        return [self._rows[text] for text in texts]


class Cache:
    """An adapter's cache, and what is asked of it."""

    def __init__(self, adapter: Any, options: dict[str, Any]) -> None:
        self._adapter, self._options = adapter, options
        packed = base64.b64decode(options["vectors"])
        self._own = np.frombuffer(packed, "<f4").reshape(len(options["texts"]), -1)
        self._place = {text: place for place, text in enumerate(options["texts"])}
        self._embed = Instant(options["texts"], self._own)
        self._look_up: LookUp = adapter.open_cache(options, self._embed)

    def time(self, texts: list[str], batch: int) -> dict[str, Any]:
        """CPU seconds of this process, and wall seconds, of all look-ups."""
        groups = [texts[start : start + batch] for start in range(0, len(texts), batch)]
        before, started_s, used_s = self._embed.embedded, time.perf_counter(), time.process_time()
        for group in groups:
            self._look_up(group)
        used_s, wall_s = time.process_time() - used_s, time.perf_counter() - started_s
        return {"cpu_s": used_s, "wall_s": wall_s, "embedded": self._embed.embedded - before}

    def exact(self, texts: list[str], batch: int) -> dict[str, Any]:
        """The share of vectors whose bytes are the stored ones, and the lowest cosine to them."""
        groups = [texts[start : start + batch] for start in range(0, len(texts), batch)]
        before = self._embed.embedded
        rows = [row for group in groups for row in self._look_up(group)]
        found, own = np.array(rows, dtype="<f4"), self._own[[self._place[text] for text in texts]]
        cosines = (found * own).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(own, axis=1)
        same = sum(one.tobytes() == other.tobytes() for one, other in zip(found, own, strict=True))
        return {"exact": same / len(texts), "cosine": float(cosines.min()), "embedded": self._embed.embedded - before}

    def repeated(self, texts: list[str]) -> dict[str, Any]:
        """How often a new text is embedded that a request has several times."""
        return self._counted(lambda: self._look_up(texts[:1] * THREADS))

    def at_once(self, texts: list[str]) -> dict[str, Any]:
        """How often a new text is embedded that several threads ask for in the same moment."""
        self._embed.pause_s = PAUSE_S
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                return self._counted(lambda: list(pool.map(self._look_up, [texts[:1]] * THREADS)))
            finally:
                self._embed.pause_s = 0.0

    def threads(self, texts: list[str]) -> dict[str, Any]:
        """Whether several threads get the right vectors."""
        with ThreadPoolExecutor(THREADS) as pool:
            answers = list(pool.map(lambda number: self.exact(texts[number::THREADS], 4), range(THREADS)))
        return {"exact": min(one["exact"] for one in answers)}

    def other_model(self, texts: list[str]) -> dict[str, Any]:
        """How many known texts are embedded when they are asked for under another model's name."""
        other = self._adapter.open_cache({**self._options, "model": "another-model"}, self._embed)
        return self._counted(lambda: other(texts))

    def without_redis(self, texts: list[str]) -> dict[str, Any]:
        """Whether a text is embedded, or the look-up fails, when no Redis answers."""
        try:
            alone = self._adapter.open_cache({**self._options, "redis_url": NO_REDIS}, self._embed)
            return self._counted(lambda: alone(texts[:1]))
        except Exception as error:  # any is the answer
            return {"error": type(error).__name__}

    def _counted(self, call: Callable[[], object]) -> dict[str, Any]:
        before = self._embed.embedded
        call()
        return {"embedded": self._embed.embedded - before}


def main() -> None:
    """Open the cache, name the versions, then answer commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    options = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    adapter = opened(Path(sys.argv[1]))
    cache = Cache(adapter, options)
    tell(answers, {"packages": versions(adapter.PACKAGES)})
    for line in sys.stdin:
        command = json.loads(line)
        try:
            tell(answers, getattr(cache, command.pop("do"))(**command))
        except Exception as error:  # told to the parent, which decides
            tell(answers, {"failed": f"{type(error).__name__}: {error}"[:300]})


def opened(file: Path) -> Any:
    """The adapter's module."""
    spec = importlib.util.spec_from_file_location("adapter", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed ones of these distributions."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def tell(answers: Any, content: dict[str, Any]) -> None:
    """One line of JSON."""
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
