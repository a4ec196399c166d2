"""Runs checks side by side, each with a time limit of its own; one that fails or hangs hides no other."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from common.findings import Finding
from deploy.doctor.setup import SetUp, Unreadable

LIMIT_S: Final = 20.0  # for all of them; the slowest reads and hashes a model of some gigabytes

Check = Callable[[SetUp], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Section:
    """One check, and the heading that its findings stand under."""

    name: str
    check: Check


def run(sections: Sequence[Section], set_up: SetUp, limit_s: float = LIMIT_S) -> dict[str, list[Finding]]:
    """The findings of every section, in their order; what a check had found before it failed or hung is kept."""
    deadline_s = time.monotonic() + limit_s
    told: queue.SimpleQueue[tuple[str, Finding | None]] = queue.SimpleQueue()
    for section in sections:
        threading.Thread(target=_tell, args=(section, set_up, told), daemon=True).start()
    found: dict[str, list[Finding]] = {section.name: [] for section in sections}
    unfinished = {section.name for section in sections}
    while unfinished and (left_s := deadline_s - time.monotonic()) > 0:
        try:
            name, finding = told.get(timeout=left_s)
        except queue.Empty:
            break
        if finding is None:
            unfinished.discard(name)
        else:
            found[name].append(finding)
    for name in unfinished:
        found[name].append(Finding(name, "unseen", f"this check had not finished after {limit_s:g} s"))
    return found


def _tell(section: Section, set_up: SetUp, told: "queue.SimpleQueue[tuple[str, Finding | None]]") -> None:
    try:
        for finding in section.check(set_up):
            told.put((section.name, finding))
    except Unreadable:
        told.put((section.name, Finding(section.name, "unseen", "the settings that this needs cannot be read")))
    except ImportError as error:
        told.put((section.name, Finding(section.name, "unseen", f"needs {error.name}, which is not installed here")))
    except Exception as error:
        # Its text may hold what it failed on: a key, a password.
        told.put((section.name, Finding(section.name, "unseen", f"this check itself failed ({type(error).__name__})")))
    finally:
        told.put((section.name, None))
