"""Health probes of processes on this machine, over HTTP/1.0 on an asyncio connection.

Without aiohttp, which nothing else in `dejavec up` needs: its import takes 0.5 s longer than this module's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply over HTTP."""

    status: int
    body: bytes


async def get(host: str, port: int, path: str, timeout_s: float) -> Answer | None:
    """GET over HTTP/1.0; None when there is no whole answer in time."""
    try:
        async with asyncio.timeout(timeout_s):
            reply = await _exchange(host, port, f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    except (OSError, TimeoutError):
        return None
    head, _, body = reply.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    return Answer(int(words[1]), body) if len(words) > 1 and words[1].isdigit() else None


def http_probe(host: str, port: int, path: str, timeout_s: float) -> Probe:
    """Whether `path` answers 200 in time."""

    async def probe() -> bool:
        answer = await get(host, port, path, timeout_s)
        return answer is not None and answer.status == 200

    return probe


async def _exchange(host: str, port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()
