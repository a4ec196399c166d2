"""The journal of an ingestion: one small JSON file with what has been done, replaced whole at every commit.

While the work goes on it is the point to resume from, and afterwards the one to go on from when the input has grown;
it is the record of what the vectors are: of which input, by which model, with which options.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import orjson

from common.texts import BadLine, Position

FORMAT = 2


class CannotResume(Exception):
    """What is there was made from another input, by another model or with other options; the message names it."""


class Occupied(CannotResume):
    """The files are another run's or output's, which starting over must not take; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the vectors come from, but for the input, which `Position` has; a resumed run must have the same one."""

    model: str
    fingerprint: str
    dimensions: int
    options: dict[str, str | int | float | None]

    def require(self, now: "Origin") -> None:
        """Raise CannotResume, naming what differs, unless `now` is the same."""
        if self.model != now.model:
            raise CannotResume(f"the model is {now.model}, the vectors so far are of {self.model}")
        if self.fingerprint != now.fingerprint:
            raise CannotResume(
                f"the model's fingerprint is {now.fingerprint}, the vectors so far are of {self.fingerprint}; "
                "vectors of two models must not mix in one file"
            )
        for name, value in {**now.options, "dimensions": now.dimensions}.items():
            before = self.dimensions if name == "dimensions" else self.options.get(name)
            if before != value:
                raise CannotResume(f"{name} is {_shown(value)} now and was {_shown(before)} when this began")


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been done so far; `tiers` counts rows by the cache tier that served them, `faults` bad lines."""

    rows: int = 0
    bad_lines: int = 0
    blank_lines: int = 0
    tokens: int = 0
    tiers: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    def plus(self, tiers: Sequence[str], bad: Sequence[BadLine], blank_lines: int, tokens: int) -> "Counts":
        """The counts after a row for each of `tiers` more."""
        return Counts(
            rows=self.rows + len(tiers),
            bad_lines=self.bad_lines + len(bad),
            blank_lines=self.blank_lines + blank_lines,
            tokens=self.tokens + tokens,
            tiers=dict(Counter(self.tiers) + Counter(tiers)),
            faults=dict(Counter(self.faults) + Counter(one.fault.value for one in bad)),
        )

    @property
    def lines(self) -> int:
        """Lines, or rows of a table, that have been read."""
        return self.rows + self.bad_lines + self.blank_lines


@dataclass(frozen=True, slots=True)
class Journal:
    """The state of an ingestion at a commit: everything before `position` is on disk in the sizes given.

    `finished_bytes`: the size of the finished vectors, once `complete`.
    """

    origin: Origin
    position: Position
    counts: Counts
    ids_bytes: int
    bad_bytes: int
    complete: bool = False
    finished_bytes: int = 0

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
            return cls(
                origin=Origin(**entries.pop("origin")),
                position=Position(**entries.pop("position")),
                counts=Counts(**entries.pop("counts")),
                **entries,
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise CannotResume("the journal is damaged; start over") from None

    def require(self, origin: Origin) -> None:
        """Raise CannotResume, naming what differs, unless this journal is of `origin`."""
        self.origin.require(origin)


def _shown(value: str | float | None) -> str:
    return "not given" if value is None else str(value)  # of a Format its value alone, unlike its repr


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
