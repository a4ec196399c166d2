"""What a server answers before an application is asked, or in place of one."""

from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

ALWAYS_ANSWERED: Final = ("/health", "/ready", "/metrics")
REASONS: Final = {
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
}


def refusal(status: int, message: str) -> bytes:
    """A whole reply, after which the connection is closed."""
    body = error_body(message)
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, REASONS[status], len(body)) + body


def error_body(message: str, kind: str = "invalid_request_error", code: str = "bad_request") -> bytes:
    """The JSON of a refusal, in the form both servers use."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def health_only(app: ASGIApp) -> ASGIApp:
    """What a connection beyond the limit may ask for."""
    body = error_body(
        "this server has as many connections as it may; try again", "server_error", "too_many_connections"
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in ALWAYS_ANSWERED:
            await app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 503, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return answer
