"""The journal of an ingestion: one small JSON file with what has been done, replaced whole at every commit.

While the work goes on it is the point to resume from; afterwards it is the record of what the vectors are: of which
input, by which model, with which options.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import orjson

from gateway.client.lines import Position

FORMAT = 1
ENDS_BYTES = 1 << 20  # of the input's head and of its tail, hashed to distinguish inputs


class CannotResume(Exception):
    """What is there was made from another input, by another model or with other options; the message names it."""


@dataclass(frozen=True, slots=True)
class InputMark:
    """What distinguishes one input from another: its size, and a hash of its first and last MiB."""

    size: int
    sha256_ends: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What the vectors come from; a resumed run must have the same one."""

    input: InputMark
    model: str
    fingerprint: str
    dimensions: int
    options: dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been done so far; `tiers` counts rows by the cache tier that served them."""

    rows: int = 0
    bad_lines: int = 0
    tokens: int = 0
    tiers: dict[str, int] = field(default_factory=dict)

    def plus(self, tiers: Sequence[str], bad_lines: int, tokens: int) -> "Counts":
        """The counts after a row for each of `tiers` more."""
        merged = dict(Counter(self.tiers) + Counter(tiers))
        return Counts(self.rows + len(tiers), self.bad_lines + bad_lines, self.tokens + tokens, merged)


@dataclass(frozen=True, slots=True)
class Journal:
    """The state of an ingestion at a commit: everything before `position` is on disk in the sizes given."""

    origin: Origin
    position: Position
    counts: Counts
    ids_bytes: int
    bad_bytes: int
    complete: bool = False

    def to_json(self) -> bytes:
        """The journal as its file's content."""
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """Read what `to_json` wrote. Raises CannotResume."""
        try:
            entries = orjson.loads(body)
            if entries.pop("format") != FORMAT:
                raise CannotResume("the journal was written by another version; start over")
            origin = entries.pop("origin")
            return cls(
                origin=Origin(input=InputMark(**origin.pop("input")), **origin),
                position=Position(**entries.pop("position")),
                counts=Counts(**entries.pop("counts")),
                **entries,
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CannotResume(f"the journal cannot be read ({error!r}); start over") from None

    def require(self, origin: Origin) -> None:
        """Raise CannotResume, naming what differs, unless this journal is of `origin`."""
        was = self.origin
        if was.input != origin.input:
            raise CannotResume(
                f"the input is another one: it has {origin.input.size} bytes, and {was.input.size} when this began"
                + (", but other content" if was.input.size == origin.input.size else "")
            )
        if was.model != origin.model:
            raise CannotResume(f"the gateway serves {origin.model}, the vectors so far are of {was.model}")
        if was.fingerprint != origin.fingerprint:
            raise CannotResume(
                f"the model's fingerprint is {origin.fingerprint}, the vectors so far are of {was.fingerprint}; "
                "vectors of two models must not mix in one file"
            )
        for name, value in {**origin.options, "dimensions": origin.dimensions}.items():
            before = was.dimensions if name == "dimensions" else was.options.get(name)
            if before != value:
                raise CannotResume(f"{name} is {value!r} now and was {before!r} when this began")


def mark_of(file: BinaryIO) -> InputMark:
    """The mark of an open input; reads at most 2 MiB of it."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256()
    for start in (0, max(size - ENDS_BYTES, 0)):
        file.seek(start)
        digest.update(file.read(ENDS_BYTES))
    return InputMark(size, digest.hexdigest())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it is either the old or the new one, whole."""
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names created or replaced in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
