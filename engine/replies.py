"""The engine's errors and vectors as HTTP replies: the one table from error to status."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from engine.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    EngineError,
    EngineFailed,
    FingerprintMismatch,
    InvalidMessage,
    QueueFull,
    TextTooLong,
    TokenOutOfVocabulary,
    UnsupportedMediaType,
)
from engine.protocol import error_body

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON_TYPE = "application/json"

STATUS: dict[type[EngineError], int] = {
    InvalidMessage: 400,
    TokenOutOfVocabulary: 400,
    TextTooLong: 400,
    FingerprintMismatch: 409,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    QueueFull: 429,
    Draining: 503,
    DeadlineExceeded: 503,
    EngineFailed: 503,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def send(self, send: Send) -> None:
        """Write it as ASGI messages."""
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def error_reply(error: EngineError, headers: list[tuple[bytes, bytes]]) -> Reply:
    """The reply for an error of the engine; `headers` are those every reply carries."""
    extra = [(b"content-type", JSON_TYPE.encode())]
    if isinstance(error, QueueFull):
        extra.append((b"retry-after", str(error.retry_after_s).encode()))
    if isinstance(error, BodyTooLarge):
        extra.append((b"connection", b"close"))  # the rest of the body is not read
    return Reply(STATUS[type(error)], headers + extra, error_body(str(error), error.kind))


def fault_reply(status: int, message: str, kind: str, headers: list[tuple[bytes, bytes]]) -> Reply:
    """The reply for a fault that has no class of its own."""
    return Reply(status, [*headers, (b"content-type", JSON_TYPE.encode())], error_body(message, kind))
