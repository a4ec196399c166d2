"""What became of the lines of a run: counts by reason, and a file that lists those that were not used."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import orjson

from common.texts.rows import BadLine, Fault, Row


@dataclass(slots=True)
class Tally:
    """`first`: where the first line of each fault is, and what it says."""

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """Lines, or rows of a table."""
        return self.used + self.skipped.total()

    def add(self, row: Row, source: str = "") -> None:
        """Count a row; `source` names its file where there are several."""
        if isinstance(row, BadLine):
            self.skipped[row.fault.value] += 1
            if row.reason:
                where = f"{source}, line {row.line}" if source else f"line {row.line}"
                self.first.setdefault(row.fault.value, f"{where}: {row.reason}")
        else:
            self.used += 1

    def __str__(self) -> str:
        """`14 lines read, 6 used, 8 skipped: 7 not JSON (first: line 2: not JSON: ...), 1 blank`."""
        text = f"{self.read:,} lines read, {self.used:,} used"
        if not self.skipped:
            return text
        faults = (
            f"{count:,} {fault}" + (f" (first: {self.first[fault]})" if fault in self.first else "")
            for fault, count in self.skipped.most_common()
        )
        return f"{text}, {self.skipped.total():,} skipped: {', '.join(faults)}"

    def to_json(self) -> dict[str, object]:
        """The counts."""
        return {"read": self.read, "used": self.used, "skipped": dict(self.skipped)}


class BadLines:
    """A file with {"line", "reason"}, and the file's name where there are several, of each line that was not used.

    Blank lines are not listed. Without a path nothing is written. Use as a context manager. Raises OSError.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: Row, source: str = "") -> None:
        """List the row if it is a bad line."""
        if self._file is not None and isinstance(row, BadLine) and row.fault is not Fault.BLANK:
            self._file.write(listed(row, source))


def listed(bad: BadLine, source: str = "") -> bytes:
    """A bad line as the file has it."""
    entry = {"line": bad.line, "reason": bad.reason}
    return orjson.dumps({"file": source, **entry} if source else entry) + b"\n"
