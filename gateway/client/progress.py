"""What `dejavec ingest` shows while it works: a bar with rate, hit share by tier and time left, or a line now and then.

Time left is by the share of the input that is read, since lines are not counted ahead; of a pipe it is not known.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from common.texts import TextFile
from gateway.client.errors import ClientError
from gateway.client.journal import Journal

LINE_EVERY_S = 30.0  # without a terminal to draw on


class IngestProgress:
    """An observer of an ingestion that draws on a console. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._file: TextFile | None = None
        self._began_at = time.monotonic()
        self._rows = self._rows_before = 0
        self._line_at = self._began_at
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.fields[rows]:,} vectors"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TextColumn("{task.fields[tiers]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            speed_estimate_period=60,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def rows(self) -> int:
        """Vectors written so far, by earlier runs too."""
        return self._rows

    def began(self, journal: Journal, file: TextFile) -> None:
        """Start the bar where an earlier run ended."""
        self._file = file
        share = file.share_read(journal.position)
        self._began_at = self._line_at = time.monotonic()
        self._rows = self._rows_before = journal.counts.rows
        self._task = self._progress.add_task(
            "",
            total=None if share is None else 1.0,
            rows=self._rows_before,
            rate=0.0,
            tiers="",
            note="",
        )
        self._progress.update(self._task, completed=share or 0.0)

    def wrote(self, journal: Journal, limit: int) -> None:
        """Move the bar."""
        assert self._task is not None
        assert self._file is not None
        share = self._file.share_read(journal.position)
        counts, now = journal.counts, time.monotonic()
        self._rows = counts.rows
        rate = (counts.rows - self._rows_before) / max(now - self._began_at, 1e-3)
        tiers = tier_shares(counts.tiers)
        self._progress.update(
            self._task,
            completed=share or 0.0,
            rows=counts.rows,
            rate=rate,
            tiers=tiers,
            note=f"{limit} at once" + (f", {counts.bad_lines:,} bad lines" if counts.bad_lines else ""),
        )
        if not self._console.is_terminal and now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            read = f"{counts.lines:,} lines" if share is None else f"{share:.0%}"
            self._console.print(f"{counts.rows:,} vectors, {read} read, {rate:,.0f}/s, {tiers}", highlight=False)

    def waits(self, error: ClientError, wait_s: float) -> None:
        """Show why nothing moves."""
        if self._task is not None:
            self._progress.update(self._task, note=f"waiting {wait_s:.1f} s: {error}"[:100])


def tier_shares(tiers: Mapping[str, int]) -> str:
    """The share of rows each cache tier served, the largest first: `exact 61.9%, miss 38.1%`."""
    total = sum(tiers.values())
    ordered = sorted(tiers.items(), key=lambda item: -item[1])
    return ", ".join(f"{tier} {count / total:.1%}" for tier, count in ordered)
