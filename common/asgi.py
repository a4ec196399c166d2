"""HTTP on plain ASGI with limits: read a request's body, send a reply.

    limits = BodyLimits(max_bytes=16 * 2**20, timeout_s=30)
    body = await read_body(headers, receive, limits)
    await send_reply(Reply(answer), send)

What can end a transfer early, for the caller to translate into its own errors:

    TransferError
    ├── BodyTooLarge    more bytes than the limit, declared or received
    ├── BodyTimeout     the body did not arrive in time
    └── ClientGone      the client closed the connection: there is no one to answer
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Receive, Send

JSON: Final = b"application/json"
SEND_BYTES: Final = 262_144
# In a request's scope once all of its body has arrived: that body where it is small, else None.
WHOLE_BODY: Final = "dejavec.whole_body"
MAX_SMALL_BODY: Final = 16_384
UNREAD_BODY: Final = (408, 413)  # the rest of the body is not read: no further request on this connection

NO_SCOPE: Final[Mapping[str, Any]] = {}

Headers = list[tuple[bytes, bytes]]


class TransferError(Exception):
    """A body or a reply did not get through."""


class BodyTooLarge(TransferError):
    """The body has more bytes than the limit; the rest of it is not read."""


class BodyTimeout(TransferError):
    """The body did not arrive in time."""


class ClientGone(TransferError):
    """The client closed the connection before its answer was ready."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may be. `timeout_s`: for all of it to arrive."""

    max_bytes: int
    timeout_s: float


@dataclass(slots=True)
class Reply:
    """A whole HTTP reply; `headers` are those beside content-type and content-length."""

    body: bytes
    headers: Headers = field(default_factory=list)
    status: int = 200
    content_type: bytes = JSON


def media_type(headers: Mapping[bytes, bytes], default: bytes = b"") -> bytes:
    """The media type of a request's body in lower case, without parameters; `default` where none is named."""
    return headers.get(b"content-type", default).partition(b";")[0].strip().lower()


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limits: BodyLimits, scope: Mapping[str, Any] = NO_SCOPE
) -> bytes:
    """The whole body of a request; `scope` is looked at for WHOLE_BODY, and nothing may have been received before.

    Raises BodyTooLarge, before reading where the length is declared, BodyTimeout, ClientGone.
    """
    declared = headers.get(b"content-length", b"0").lstrip(b"0")
    if declared.isdigit() and (len(declared) > 19 or int(declared) > limits.max_bytes):
        raise BodyTooLarge
    if WHOLE_BODY in scope:
        body: bytes | None = scope[WHOLE_BODY]
        if body is not None and len(body) <= limits.max_bytes:
            return body
        return await _read_parts(receive, limits.max_bytes)
    try:
        async with asyncio.timeout(limits.timeout_s):
            return await _read_parts(receive, limits.max_bytes)
    except TimeoutError:
        raise BodyTimeout from None


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a reply; to a client that is gone, nothing.

    A large one goes out in pieces: the server buffers what it is given at once, so that a whole reply of megabytes
    would stay in its memory for as long as a client reads slowly. One that reads nothing is dropped by the server.
    """
    await send(_start_of(reply))
    last = max(0, (len(reply.body) - 1) // SEND_BYTES * SEND_BYTES)
    for start in range(0, last, SEND_BYTES):
        await send({"type": "http.response.body", "body": reply.body[start : start + SEND_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": reply.body[last:] if last else reply.body})


def _start_of(reply: Reply) -> dict[str, object]:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if reply.status in UNREAD_BODY:
        headers.append((b"connection", b"close"))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def _read_parts(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)
