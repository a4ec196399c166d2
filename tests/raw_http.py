"""Requests as bytes, for what no HTTP client would send, and what came back on the same connection."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

PATIENCE_S = 120.0  # a hang
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
END = b"GET /the-end-of-the-conversation HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
END_STATUS = 404


@dataclass(frozen=True)
class Answers:
    """The replies to what was sent; whether the server ended the connection before it was asked to."""

    statuses: list[int]
    raw: bytes
    is_closed: bool


async def talk(port: int, pieces: Sequence[bytes], pause_s: float = 0.0, end: bytes = END) -> Answers:
    """Send the pieces, with a pause between any two, then a last request; read until the server closes.

    The last request asks for the end of the connection, so nothing here waits for silence.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""

    async def read() -> None:
        nonlocal received
        while more := await reader.read(65_536):
            received += more

    async with asyncio.timeout(PATIENCE_S):
        reading = asyncio.create_task(read())
        try:
            for number, piece in enumerate([*pieces, end]):
                if number:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # closed before all was sent
        finally:
            with suppress(ConnectionError):
                await reading
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    statuses = statuses_of(received)
    is_closed = statuses[-1:] != [END_STATUS]
    return Answers(statuses if is_closed else statuses[:-1], received, is_closed)


def statuses_of(received: bytes) -> list[int]:
    """The status of each reply, `100 Continue` left out; bodies are skipped by their declared length.

    Raises AssertionError for bytes that are no reply.
    """
    statuses = []
    while received:
        line = STATUS_LINE.match(received)
        assert line, f"not the start of a reply: {received[:80]!r}"
        head, _, received = received.partition(b"\r\n\r\n")
        if (status := int(line[1])) == 100:
            continue
        statuses.append(status)
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length, f"a reply without a length: {head!r}"
        received = received[int(length[1]) :]
    return statuses
