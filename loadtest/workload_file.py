"""A workload as a file, so that it can be sent again exactly: JSON Lines, gzip where the name ends in .gz.

The first line says what it is; each other line is one request: {"due_s": 0.25, "texts": [...], "kinds": [...]}.
It holds the texts themselves.
"""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from loadtest.streams import KINDS, WorkloadError
from loadtest.workload import MAX_BATCH, Arrival

NAME = "dejavec workload"
VERSION = 1
DESCRIBED: dict[str, Any] = {
    "texts": str, "workload": str, "pace": str, "rate": int | float, "seconds": int | float, "batch": str, "seed": int
}  # fmt: skip
MAX_LINE_BYTES = 64 << 20
MAX_CHARACTERS = 1_000_000_000  # held in memory


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests, the words that say how they were drawn, and the SHA-256 of texts and times, by which runs compare."""

    arrivals: list[Arrival]
    described: dict[str, Any]
    sha256: str

    @property
    def seconds(self) -> float:
        """When the last request is due."""
        return self.arrivals[-1].due_s if self.arrivals else 0.0

    @property
    def distinct_texts(self) -> int:
        """How many texts differ."""
        return len({text for arrival in self.arrivals for text in arrival.texts})


def collect(arrivals: Iterator[Arrival], described: dict[str, Any]) -> Workload:
    """Hold all requests. Raises WorkloadError beyond MAX_CHARACTERS."""
    held: list[Arrival] = []
    digest, characters = hashlib.sha256(), 0
    for arrival in arrivals:
        characters += sum(map(len, arrival.texts))
        if characters > MAX_CHARACTERS:
            raise WorkloadError("the workload has over a thousand million characters: send less in one file")
        held.append(arrival)
        digest.update(_line(arrival))
    return Workload(held, described, digest.hexdigest())


def write(path: Path, workload: Workload) -> None:
    """Write the file; the same workload gives the same bytes."""
    lines = [
        orjson.dumps({"format": NAME, "version": VERSION, **workload.described, "sha256": workload.sha256}) + b"\n"
    ]
    lines += [_line(arrival) for arrival in workload.arrivals]
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read(path: Path) -> Workload:
    """Read a file that `write` has written. Raises WorkloadError, which names the line, and OSError."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            head = orjson.loads(file.readline(1 << 20))
            if not isinstance(head, dict) or (head.get("format"), head.get("version")) != (NAME, VERSION):
                raise WorkloadError(f"{path} is not a workload that --write-workload of this version wrote")
            lines = iter(partial(file.readline, MAX_LINE_BYTES), b"")
            workload = collect((_arrival(line, number, path) for number, line in enumerate(lines, 2)), {})
        except (orjson.JSONDecodeError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise WorkloadError(f"{path} is not a workload file: {error}") from None
    if workload.sha256 != head.pop("sha256", None):
        raise WorkloadError(f"{path} was changed after it was written: its content does not have the SHA-256 it names")
    if not workload.arrivals:
        raise WorkloadError(f"{path} holds no request")
    if any(later.due_s < earlier.due_s for earlier, later in pairwise(workload.arrivals)):
        raise WorkloadError(f"{path} is not in the order of time")
    described = {name: head.get(name) for name in DESCRIBED}
    if not all(isinstance(described[name], kind) for name, kind in DESCRIBED.items()):
        raise WorkloadError(f"{path}, line 1: not the description that --write-workload writes")
    return Workload(workload.arrivals, described, workload.sha256)


def _line(arrival: Arrival) -> bytes:
    return orjson.dumps({"due_s": arrival.due_s, "texts": arrival.texts, "kinds": arrival.kinds}) + b"\n"


def _arrival(line: bytes, number: int, path: Path) -> Arrival:
    found = orjson.loads(line)
    entry: dict[str, Any] = found if isinstance(found, dict) else {}
    values: list[Any] = [entry.get(name) for name in ("due_s", "texts", "kinds")]
    due_s, texts, kinds = values
    usable = (
        isinstance(due_s, int | float)
        and math.isfinite(due_s)
        and due_s >= 0
        and isinstance(texts, list)
        and 1 <= len(texts) <= MAX_BATCH
        and all(isinstance(text, str) for text in texts)
        and isinstance(kinds, list)
        and (not kinds or (len(kinds) == len(texts) and set(kinds) <= set(KINDS)))
    )
    if not usable:
        raise WorkloadError(f"{path}, line {number}: not a request with due_s, texts and kinds")
    return Arrival(float(due_s), texts, kinds)
