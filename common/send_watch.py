"""Notices a client that reads nothing of what is sent to it."""

import asyncio
from collections.abc import Callable


class SendWatch:
    """Calls `drop` when nothing of what waits in a transport's buffer is taken for `stalled_s`."""

    def __init__(self, transport: asyncio.Transport, stalled_s: float, drop: Callable[[], None]) -> None:
        self._transport = transport
        self._stalled_s = stalled_s
        self._drop = drop
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch, if anything is left to send, until all is sent."""
        if self._timer is None and (unsent := self._transport.get_write_buffer_size()):
            self._unsent = unsent
            self._timer = asyncio.get_running_loop().call_later(self._stalled_s, self._check)

    def progress(self) -> None:
        """Something was taken, although as much may have been added since."""
        self._unsent = 0

    def stop(self) -> None:
        """The connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        unsent = self._transport.get_write_buffer_size()
        if unsent and self._unsent and unsent >= self._unsent:
            self._drop()
        else:
            self.start()
