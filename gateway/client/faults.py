"""A switch that makes calls fail on purpose, so that a failure can be rehearsed before it happens.

A fault is raised where the network's would be: it passes through the same translation, retries, breaker and fallback
as the real one.
"""

import enum


class Fault(enum.StrEnum):
    """What a call meets: no connection, no answer in time (at once, without the wait), or a 503."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    UNAVAILABLE = "503"


class FaultSwitch:
    """The fault in force on one URL, if any."""

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._calls_left: int | None = None  # None: until cleared

    def inject(self, fault: Fault, calls: int | None = None) -> None:
        """Make the next `calls` calls fail, or with None every call until `clear()`."""
        if calls is not None and calls < 1:
            raise ValueError("calls is at least 1, or None for every call until cleared")
        self._fault, self._calls_left = fault, calls

    def clear(self) -> None:
        """Let calls through again."""
        self._fault, self._calls_left = None, None

    def apply(self) -> int | None:
        """Raise the fault in force as the network would, or return the status to pretend, or None."""
        fault = self._fault
        if fault is None:
            return None
        if self._calls_left is not None:
            self._calls_left -= 1
            if self._calls_left == 0:
                self.clear()
        if fault is Fault.CONNECT:
            raise ConnectionRefusedError("injected fault: no connection")
        if fault is Fault.TIMEOUT:
            raise TimeoutError("injected fault: no answer in time")
        return 503
