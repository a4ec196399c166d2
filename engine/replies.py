"""The engine's errors as HTTP replies: the one table from error to status."""

from common.asgi import Headers, Reply
from engine.errors import (
    BodyTimeout,
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

STATUS: dict[type[EngineError], int] = {
    InvalidMessage: 400,
    TokenOutOfVocabulary: 400,
    TextTooLong: 400,
    FingerprintMismatch: 409,
    BodyTimeout: 408,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    QueueFull: 429,
    Draining: 503,
    DeadlineExceeded: 503,
    EngineFailed: 503,
}


def error_reply(error: EngineError, headers: Headers) -> Reply:
    """The reply for an error of the engine; `headers` are those every reply carries."""
    headers = [*headers]
    if isinstance(error, QueueFull):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return Reply(error_body(str(error), error.kind), headers, STATUS[type(error)])


def fault_reply(status: int, message: str, kind: str, headers: Headers) -> Reply:
    """The reply for a fault that has no class of its own."""
    return Reply(error_body(message, kind), [*headers], status)
