"""What `dejavec ingest --engine ray` shows while it works: a bar over parts, or a line now and then."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.client.journal import Counts
from gateway.client.progress import LINE_EVERY_S, tier_shares


class PartsProgress:
    """Draws on a console. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_at = self._line_at = time.monotonic()
        self._parts = self._done = self._rows_before = 0
        self.counts = Counts()
        self._progress = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            speed_estimate_period=600,
        )
        self._task = self._progress.add_task("", total=None, text="starting Ray")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """What happens before the first part."""
        self._progress.update(self._task, text=text)

    def note(self, text: str) -> None:
        """What should stay to be read."""
        self._console.print(text, highlight=False, markup=False)

    def began(self, parts: int, done: Sequence[Counts]) -> None:
        """`parts` in all; what earlier runs have done of them."""
        self._began_at = time.monotonic()
        self._parts, self._done, self.counts = parts, len(done), added(done)
        self._rows_before = self.counts.rows
        self._progress.update(self._task, total=parts, completed=self._done, text=self._text())

    def did(self, counts: Counts) -> None:
        """One part more."""
        self.counts = added([self.counts, counts])
        self._done += 1
        self._progress.update(self._task, completed=self._done, text=self._text())
        now = time.monotonic()
        if not self._console.is_terminal and now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            self._console.print(self._text(), highlight=False)

    def _text(self) -> str:
        rate = (self.counts.rows - self._rows_before) / max(time.monotonic() - self._began_at, 1e-3)
        return (
            f"{self.counts.rows:,} vectors, {self._done:,} of {self._parts:,} parts, {rate:,.0f}/s, "
            f"{tier_shares(self.counts.tiers)}"
        )


def added(all_counts: Sequence[Counts]) -> Counts:
    """The sum of them."""
    return Counts(
        rows=sum(counts.rows for counts in all_counts),
        bad_lines=sum(counts.bad_lines for counts in all_counts),
        blank_lines=sum(counts.blank_lines for counts in all_counts),
        tokens=sum(counts.tokens for counts in all_counts),
        tiers=dict(sum((Counter(counts.tiers) for counts in all_counts), Counter())),
        faults=dict(sum((Counter(counts.faults) for counts in all_counts), Counter())),
    )
