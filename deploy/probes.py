"""Health probes of processes on this machine, over HTTP/1.0 on an asyncio connection.

Without aiohttp, which nothing else in `dejavec up` needs: its import takes 0.5 s longer than this module's.

A process is ready when its path answers 200. Alive is less: one that is merely full refuses with 429 or 503, or closes
the connection it has accepted, and must not be killed for that. A refused connection, silence, and what the process
itself calls a fault are no sign of life.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.gateway_url import in_url

Probe = Callable[[], Awaitable[bool]]

MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply over HTTP; a status of 0: the connection was accepted and closed without one."""

    status: int
    body: bytes


async def get(host: str, port: int, path: str, timeout_s: float) -> Answer | None:
    """GET over HTTP/1.0; None when the connection is refused or nothing answers in time."""
    try:
        async with asyncio.timeout(timeout_s):
            reply = await _exchange(host, port, f"GET {path} HTTP/1.0\r\nHost: {in_url(host)}\r\n\r\n".encode())
    except (OSError, TimeoutError):
        return None
    head, _, body = reply.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return Answer(int(words[1]), body) if len(words) > 1 and words[1].isdigit() else Answer(0, b"")


def http_probe(host: str, port: int, path: str, timeout_s: float) -> Probe:
    """Whether `path` answers 200 in time."""

    async def probe() -> bool:
        answer = await get(host, port, path, timeout_s)
        return answer is not None and answer.status == 200

    return probe


def alive_probe(host: str, port: int, path: str, timeout_s: float, fault: str = "") -> Probe:
    """Whether the process shows a sign of life; not when its answer has the words `fault`, where there are any."""

    async def probe() -> bool:
        answer = await get(host, port, path, timeout_s)
        return answer is not None and not (fault and fault.encode() in answer.body)

    return probe


async def _exchange(host: str, port: int, request: bytes) -> bytes:
    """What comes back until the other side closes, at most MAX_ANSWER_BYTES; empty for a reset. Raises OSError."""
    reader, writer = await asyncio.open_connection(host, port)
    reply = b""
    try:
        writer.write(request)
        while len(reply) < MAX_ANSWER_BYTES and (received := await reader.read(MAX_ANSWER_BYTES)):
            reply += received
    except ConnectionError:  # it was accepted, so there is somebody who closes
        pass
    finally:
        writer.close()
    return reply
