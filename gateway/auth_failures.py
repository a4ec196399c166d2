"""Wrong API keys and admin tokens, counted by the address they come from.

After MAX_A_MINUTE of them within a minute further wrong ones from that address get 429 instead of 401, and one log
line says so. A right key always passes: behind a proxy all clients have one address, and a stranger must not be able
to shut them out. So this makes guessing visible, and keeps it from filling the log; what keeps keys from being guessed
is their length.
"""

import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import RateLimited, Unauthorized
from gateway.metrics import AUTH_FAILURES

log = logging.getLogger("dejavec.gateway")

MAX_A_MINUTE: Final = 30
WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 4096
IPV6_PREFIX: Final = 64  # what one customer usually has


@dataclass(slots=True)
class _Window:
    started: float
    failures: int = 0


class AuthFailures:
    """The failures of the last minute by address; of more than MAX_ADDRESSES those longest quiet are forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def count(self, host: str, refused: Unauthorized) -> Unauthorized | RateLimited:
        """Count one wrong key or token from a client's host, and return the error to answer with."""
        AUTH_FAILURES.inc()
        address, now = _network(host), self._clock()
        window = self._windows.pop(address, None)
        if window is None or now - window.started >= WINDOW_S:
            window = _Window(now)
        self._windows[address] = window
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)
        window.failures += 1
        if window.failures <= MAX_A_MINUTE:
            return refused
        if window.failures == MAX_A_MINUTE + 1:
            log.warning("%d wrong keys from %s within a minute: further ones get 429", MAX_A_MINUTE, address)
        wait_s = window.started + WINDOW_S - now
        return RateLimited(
            f"too many wrong keys from this address; check yours and try again in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )


def _network(host: str) -> str:
    """What one client has of addresses: an IPv4 address, an IPv6 network, or the name as it is."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
