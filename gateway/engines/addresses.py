"""Engines behind a DNS name with several addresses, as a headless service has: `dns+http://engines.example:8081`.

Each address is an engine of its own. The name is looked up again every RESOLVE_EVERY_S; an answer of nothing, or none,
leaves the addresses as they were.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

RESOLVE_EVERY_S: Final = 5.0
RESOLVE_TIMEOUT_S: Final = 3.0
MAX_ENGINES: Final = 64
DNS_PREFIX: Final = "dns+"

Lookup = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Address:
    """Where one engine answers. `name`: the DNS name it was found by, which TLS certificates are checked against."""

    url: str
    name: str | None = None


def is_dns(url: str) -> bool:
    """Whether a URL stands for all addresses of its host's name."""
    return url.startswith(DNS_PREFIX)


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, each once, in order. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(sockaddr[0]) for *_, sockaddr in found})


async def addresses_of(url: str, lookup: Lookup = look_up) -> list[Address]:
    """The engines behind a `dns+` URL now. Raises OSError and TimeoutError; an empty list is possible."""
    parts = urlsplit(url.removeprefix(DNS_PREFIX))
    host = parts.hostname or ""
    async with asyncio.timeout(RESOLVE_TIMEOUT_S):
        found = await lookup(host, parts.port or (443 if parts.scheme == "https" else 80))
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return [
        Address(f"{parts.scheme}://{user}{at}{f'[{ip}]' if ':' in ip else ip}{port}{parts.path}", host) for ip in found
    ]
