"""TCP ports of this machine: is one free, and which one could be had."""

import socket

from engine.configuration import port_refusal

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def refusal(port: int, host: str = LOOPBACK) -> str | None:
    """Why a server could not listen there now ("Address already in use"), or None if it could."""
    return port_refusal(host, port)
