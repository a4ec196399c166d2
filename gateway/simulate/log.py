"""The texts of a log: files in their order, up to a limit, with what was left out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from common.text_lines import read_texts

STANDARD_INPUT: Final = Path("/dev/stdin")


@dataclass(slots=True)
class Log:
    """`first_fault`: where the first broken line is, and why it is broken. `was_cut`: there is more than was read."""

    texts: list[str] = field(default_factory=list)
    blank_lines: int = 0
    broken_lines: int = 0
    first_fault: str = ""
    was_cut: bool = False


def read_log(sources: Iterable[Path], limit: int) -> Log:
    """The first `limit` texts of the files; blank and broken lines are left out and counted. Raises OSError."""
    log = Log()
    for source in sources:
        for line in read_texts(source):
            if line.fault:
                log.broken_lines += 1
                log.first_fault = log.first_fault or f"{source}, line {line.number}: {line.fault}"
            elif not line.text.strip():
                log.blank_lines += 1
            elif len(log.texts) == limit:
                log.was_cut = True
                return log
            else:
                log.texts.append(line.text)
    return log
