"""Ports for servers that tests start, beside other tests that do the same.

ports = free_ports(3)                       # three different ones; free_port(): one
found = with_other_ports(start)             # start() again where one of its ports was taken meanwhile
"""

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from deploy.ports import LOOPBACK

# Below what Linux gives to clients (net.ipv4.ip_local_port_range): no connection of another test takes one of these
# between the look and the start, or while a server that was stopped is started again.
FIRST, LAST = 12_000, 32_000
ATTEMPTS = 3

Started = TypeVar("Started")


class DidNotStart(Exception):
    """The server was started and did not answer; the message ends with its last lines."""


def free_ports(count: int) -> list[int]:
    """That many different ports on 127.0.0.1, all free at one moment."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = random.randint(FIRST, LAST)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def with_other_ports(start: Callable[[], Started]) -> Started:
    """What `start` gives; it chooses its ports anew each time. Raises DidNotStart where it failed every time."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except DidNotStart:
            continue
    return start()
