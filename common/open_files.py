"""How many files and connections this process and those it starts may have open at once (RLIMIT_NOFILE)."""

import sys

if sys.platform != "win32":
    import resource

RESERVE = 128  # standard streams, logs, the model's files, modules being imported, sockets that listen


class TooFewOpenFiles(Exception):
    """The limit cannot be raised to what is needed; the message has both numbers and how to raise it."""


def allow(needed: int) -> int | None:
    """Raise the soft limit to the hard one and return it; None where there is no limit. Raises TooFewOpenFiles.

    Where the system refuses that (macOS, whose hard limit may be infinite), it is raised to what is needed.
    """
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, needed):
        if soft not in {hard, resource.RLIM_INFINITY} and (wanted == resource.RLIM_INFINITY or wanted > soft):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
            except (ValueError, OSError):
                continue
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < needed:
        raise TooFewOpenFiles(
            f"{needed} open files are needed and {soft} are allowed; raise the limit (`ulimit -n {needed}`, systemd: "
            f"LimitNOFILE={needed}, Docker: --ulimit nofile={needed})"
        )
    return soft
