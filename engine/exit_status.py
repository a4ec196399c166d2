"""How a dejavec process ends when starting it again would not help: one contract for all of them and their supervisor.

It exits with CANNOT_START, which is also click's status for a wrong option, and what it prints ends with
`Error: <reason and remedy>`, the form in which click prints an error. Any other status: starting again may help.
Light imports, since the `dejavec` command reads this before it imports a subcommand.
"""

from collections.abc import Sequence

CANNOT_START = 2  # with this bundle or this configuration
REASON_PREFIX = "Error: "


def reason_in(lines: Sequence[str]) -> str:
    """The reason that a process's last lines end with, as one line; empty when they have none."""
    starts = [place for place, line in enumerate(lines) if line.startswith(REASON_PREFIX)]
    if not starts:
        return ""
    first, *rest = lines[starts[-1] :]
    return "; ".join(filter(None, map(str.strip, [first.removeprefix(REASON_PREFIX), *rest])))
