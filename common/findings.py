"""What a check of a set-up found: how bad it is, why it matters, and what mends it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, Literal

Severity = Literal["ok", "note", "unseen", "warning", "fault"]

# `unseen`: the check could not look, which says nothing about what it would have seen.
SEVERITIES: Final[tuple[Severity, ...]] = ("ok", "note", "unseen", "warning", "fault")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; none of its texts holds a secret."""

    check: str  # what was looked at: "eviction policy"
    severity: Severity
    what: str  # what was seen
    why: str = ""  # what follows from it
    remedy: str = ""  # the command or setting that mends it

    def to_dict(self) -> dict[str, str]:
        """The fields that have something to say."""
        return {name: value for name, value in asdict(self).items() if value}

    def line(self) -> str:
        """All of it in one line, for a log."""
        parts = [f"{self.check}: {self.what}", self.why, self.remedy and f"remedy: {self.remedy}"]
        return "; ".join(part for part in parts if part)


def worst(findings: Iterable[Finding]) -> Severity:
    """The gravest severity among them; `ok` where there are none."""
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")


def to_mend(findings: Iterable[Finding]) -> list[Finding]:
    """Warnings and faults, the gravest first."""
    chosen = [finding for finding in findings if finding.severity in {"warning", "fault"}]
    return sorted(chosen, key=lambda finding: -SEVERITIES.index(finding.severity))
