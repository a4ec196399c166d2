"""The files of an ingestion, and the commits that make them survive a kill.

    NAME.npy            float32[n, dimensions], or NAME.parquet with the ids beside the vectors
    NAME.npy.partial    the vectors so far, until they are complete; of a Parquet file too
    NAME.ids.jsonl      row i: {"id": ..., "line": ...} of vector i
    NAME.bad.jsonl      {"line": ..., "reason": ...} of each line set aside
    NAME.ingest.json    the journal

Data is appended, made durable, and only then named in the journal, which is replaced whole. So after a crash the files
hold at least what the journal lists, and what they hold beyond it is cut off on resuming: nothing is lost or doubled.
Finished vectors stay as they are until longer ones, of an input that has grown, replace them. A journal of no vectors
binds nobody to its input and options: the next run begins anew.

NAME.npy and NAME.parquet would share the three files beside them, so that NAME is one output's, the journal's.
"""

import fcntl
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import orjson

from common.texts import BadLine, Position, Record
from common.texts.tally import listed
from gateway.client.journal import CannotResume, Counts, Journal, Occupied, Origin, replace_file
from gateway.client.vector_files import FLOAT_BYTES, FORMATS, HEADER_BYTES, write_header
from gateway.client.wire import Float32Array

JUST_WRITTEN = "another ingestion has just worked on it: run this one again"


class Paths:
    """Where the files of one output lie, named after its .npy or .parquet file, and the format of that."""

    def __init__(self, out: Path) -> None:
        if out.suffix not in FORMATS:
            raise ValueError(f"{out} does not end in {' or '.join(FORMATS)}")
        self.format = FORMATS[out.suffix]
        self.vectors = out
        self.partial = out.with_name(out.name + ".partial")
        self.ids = out.with_name(out.stem + ".ids.jsonl")
        self.bad = out.with_name(out.stem + ".bad.jsonl")
        self.journal = out.with_name(out.stem + ".ingest.json")

    def require_folder(self) -> None:
        """Raise OSError, naming the folder, where no file can be made in it."""
        folder = self.vectors.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{self.vectors} cannot be written: there is no folder {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.vectors} cannot be written: the folder {folder} does not allow it")

    def require_own(self) -> None:
        """Raise Occupied where the files beside it belong to another output, such as NAME.npy of NAME.parquet."""
        for suffix in FORMATS:
            other = self.vectors.with_suffix(suffix)
            partial = other.with_name(other.name + ".partial")
            if other == self.vectors:
                continue
            is_recorded = self._journal_suffix() == suffix and (other.exists() or partial.exists())
            if is_recorded or _is_locked(partial):
                raise Occupied(
                    f"{self.journal}, {self.ids.name} and {self.bad.name} belong to {other}, and {self.vectors.name} "
                    f"would replace them: give --out another name than {self.vectors.stem}"
                )

    def _journal_suffix(self) -> str | float | None:
        """Of the vectors that the journal is of; None without one that can be read."""
        try:
            return Journal.from_json(self.journal.read_bytes()).origin.options.get("output")
        except (FileNotFoundError, CannotResume):
            return None

    def clear(self) -> None:
        """Remove what an earlier run left, the journal first, so that a crash in between leaves nothing to resume."""
        for path in (self.journal, self.vectors, self.ids, self.bad):
            path.unlink(missing_ok=True)
        if self.partial.exists():
            os.truncate(self.partial, 0)  # not removed: its lock is what keeps a second run out


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of consecutive lines: those with vectors, those set aside, both in order; the next start at `end`.

    vectors: float32[n, dimensions] for n records; tiers: n.
    """

    records: Sequence[Record]
    vectors: Float32Array
    tiers: Sequence[str]
    tokens: int
    bad: Sequence[BadLine]
    blank_lines: int
    end: Position


class Output:
    """An output being written. Use as a context manager; one event loop or thread, and one process, held by a lock."""

    def __init__(self, paths: Paths, origin: Origin, *, start_over: bool = False) -> None:
        self._paths = paths
        self._origin = origin
        self._start_over = start_over
        self._stack = ExitStack()
        self._last_commit = Journal(origin, Position(), Counts(), ids_bytes=0, bad_bytes=0)
        self.journal = self._last_commit  # as the next commit will write it

    def __enter__(self) -> Self:
        """Start, resume, or find it complete. Raises CannotResume (Occupied), OSError."""
        with self._stack:
            self._paths.require_own()
            found = None if self._start_over else self._found()
            if found is not None and found.complete:
                self._last_commit = self.journal = found
                self._remove_leftover()
                return self
            self._lock()
            self._paths.require_own()  # again: of two that begin now, each has its lock before it looks for the other's
            if self._start_over:
                self._paths.clear()
            elif self._found() != found:
                raise Occupied(JUST_WRITTEN)
            self._last_commit = self.journal = found or self.journal
            if found is None:
                replace_file(self._paths.journal, self.journal.to_json())  # before any data, so data is never orphaned
            self._open_files()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def reopen(self) -> None:
        """Go on with a complete output. Raises CannotResume, OSError."""
        with self._stack:
            self._lock()
            if self._found() != self.journal:
                raise Occupied(JUST_WRITTEN)
            self._vectors.truncate(0)
            self._paths.format.restore(self._paths.vectors, self._vectors, self.journal)
            self._vectors.flush()
            os.fsync(self._vectors.fileno())
            self._last_commit = self.journal = replace(self.journal, complete=False)
            replace_file(self._paths.journal, self.journal.to_json())
            self._open_files()
            self._stack = self._stack.pop_all()

    def append(self, answer: Answer) -> None:
        """Add what became of the next lines; nothing of it is safe before `commit`. Raises ValueError, OSError."""
        if answer.vectors.shape != (len(answer.records), self._origin.dimensions):
            raise ValueError(f"vectors of shape {answer.vectors.shape} for {len(answer.records)} rows")
        ids = b"".join(orjson.dumps({"id": r.id, "line": r.line}) + b"\n" for r in answer.records)
        faults = b"".join(map(listed, answer.bad))
        self._vectors.write(np.ascontiguousarray(answer.vectors, dtype="<f4").tobytes())
        self._ids.write(ids)
        self._bad.write(faults)
        self.journal = replace(
            self.journal,
            position=answer.end,
            counts=self.journal.counts.plus(answer.tiers, answer.bad, answer.blank_lines, answer.tokens),
            ids_bytes=self.journal.ids_bytes + len(ids),
            bad_bytes=self.journal.bad_bytes + len(faults),
        )

    def commit(self) -> None:
        """Make everything appended durable, then record it in the journal. Blocks for a few fsyncs."""
        if self.journal == self._last_commit:
            return
        self._write_header()
        for file in (self._vectors, self._ids, self._bad):
            file.flush()
            os.fsync(file.fileno())
        replace_file(self._paths.journal, self.journal.to_json())
        self._last_commit = self.journal

    def complete(self) -> None:
        """Commit, make the finished vectors, and mark the journal complete. Blocks for as long as that takes."""
        self.commit()
        paths = self._paths
        paths.format.finish(paths.partial, paths.vectors, paths.ids, self.journal)
        self.journal = replace(self.journal, complete=True, finished_bytes=paths.vectors.stat().st_size)
        replace_file(paths.journal, self.journal.to_json())
        self._last_commit = self.journal
        paths.partial.unlink(missing_ok=True)

    def _found(self) -> Journal | None:
        """The journal of an earlier run, checked against the files; None when there is nothing to go on with."""
        paths = self._paths
        if not paths.journal.exists():
            for path in (paths.vectors, paths.partial, paths.ids, paths.bad):
                if path.exists() and (path != paths.partial or path.stat().st_size):
                    raise CannotResume(f"{path} exists and no journal records how it was made")
            return None
        journal = Journal.from_json(paths.journal.read_bytes())
        size = paths.vectors.stat().st_size if paths.vectors.exists() else None
        if not journal.counts.rows and (size is None or not journal.complete or size == journal.finished_bytes):
            return None
        journal.require(self._origin)
        if journal.complete and size != journal.finished_bytes:
            raise CannotResume(f"{paths.vectors} was complete and is gone, or has changed its size")
        if not journal.complete and size == self._vector_bytes(journal) and not paths.partial.exists():
            # An array that was given its name, by a run that was killed before its last step.
            journal = replace(journal, complete=True, finished_bytes=size)
            replace_file(paths.journal, journal.to_json())
        return journal

    def _remove_leftover(self) -> None:
        """The vectors of a run that was killed behind its last step but one. Raises CannotResume."""
        if self._paths.partial.exists():
            self._lock()
            self._paths.partial.unlink()

    def _lock(self) -> None:
        self._vectors = self._open(self._paths.partial)
        try:
            fcntl.flock(self._vectors, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(f"another ingestion is writing {self._paths.partial}: wait until it is done") from None
        if not self._paths.partial.exists() or not os.path.samestat(
            os.fstat(self._vectors.fileno()), self._paths.partial.stat()
        ):
            raise Occupied(JUST_WRITTEN)

    def _open_files(self) -> None:
        """Open what is not open yet, and cut every file at the last commit."""
        self._ids = self._open(self._paths.ids)
        self._bad = self._open(self._paths.bad)
        self._cut(self._vectors, self._vector_bytes(self.journal) if self.journal.counts.rows else 0)
        self._cut(self._ids, self.journal.ids_bytes)
        self._cut(self._bad, self.journal.bad_bytes)
        self._write_header()

    def _open(self, path: Path) -> BinaryIO:
        file = path.open("r+b") if path.exists() else path.open("x+b")
        return self._stack.enter_context(file)

    def _cut(self, file: BinaryIO, size: int) -> None:
        held = file.seek(0, os.SEEK_END)
        if held < size:
            raise CannotResume(f"{file.name} has {held} bytes where the journal has {size}")
        file.truncate(size)
        file.seek(size)

    def _write_header(self) -> None:
        """The .npy header for the rows there are now; the file is a whole array at every commit."""
        write_header(self._vectors, self.journal.counts.rows, self._origin.dimensions)

    def _vector_bytes(self, journal: Journal) -> int:
        return HEADER_BYTES + journal.counts.rows * self._origin.dimensions * FLOAT_BYTES


def _is_locked(path: Path) -> bool:
    """Whether an ingestion is writing it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
