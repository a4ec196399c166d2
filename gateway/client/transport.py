"""One HTTP call to one URL: sends, reads the whole answer, turns every failure into one of this package's."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp

from common.credentials import shown_url, shown_urls_in
from common.reply_parsing import error_in, retry_after_s
from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    GatewayFault,
    InvalidReply,
    RateLimited,
    Refused,
    RequestRefused,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from gateway.client.faults import FaultSwitch

REQUEST_ID_HEADER = "x-request-id"
MESSAGE_CHARS = 300  # of an error page that is not an envelope

# The first row that fits decides, so the narrow ones come first.
TRANSLATIONS: tuple[tuple[type[Exception], type[ClientError]], ...] = (
    (TimeoutError, TimedOut),  # aiohttp's time-outs are TimeoutErrors too
    (aiohttp.ClientConnectorError, ConnectFailed),
    (aiohttp.InvalidURL, ConnectFailed),
    (aiohttp.NonHttpUrlClientError, ConnectFailed),
    (aiohttp.ServerFingerprintMismatch, ConnectFailed),
    (aiohttp.ClientResponseError, InvalidReply),  # what arrived is not HTTP
    (aiohttp.RedirectClientError, InvalidReply),
    (aiohttp.ClientError, ConnectionLost),
    (ConnectionRefusedError, ConnectFailed),
    (OSError, ConnectionLost),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer to a request to `url`, which is as it may be shown."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what aiohttp and the operating system raise into this package's errors; let the rest through."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        kind = next(ours for theirs, ours in TRANSLATIONS if isinstance(error, theirs))
        reason = "" if isinstance(error, aiohttp.InvalidURL) else shown_urls_in(str(error))
        raise kind(f"{shown_url(url)}: {reason or type(error).__name__}") from error


async def send(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    body: bytes | None,
    headers: Mapping[str, str],
    limits: aiohttp.ClientTimeout,
    faults: FaultSwitch,
) -> Reply:
    """Send one request and read its answer to the end. Raises TransportError or InvalidReply."""
    with translated(url):
        status = faults.apply()
        if status is not None:
            return Reply(shown_url(url), status, {}, b"injected fault")
        async with session.request(
            method, url, data=body, headers={**headers, **_trace_context()}, timeout=limits, allow_redirects=False
        ) as response:
            return Reply(shown_url(url), response.status, response.headers, await response.read())


def raise_for_status(reply: Reply) -> None:
    """Raise the Refused that fits a status other than 200."""
    if reply.status == 200:
        return
    entry = error_in(reply.body)
    raise _refusal_for(reply.status)(
        reply.status,
        _text(entry, "message") or reply.body[:MESSAGE_CHARS].decode(errors="replace") or "no message",
        kind=_text(entry, "type"),
        param=_text(entry, "param"),
        code=_text(entry, "code"),
        request_id=reply.headers.get(REQUEST_ID_HEADER),
        retry_after_s=retry_after_s(reply.headers.get("Retry-After")),
    )


def _trace_context() -> dict[str, str]:
    """The headers that name the caller's current span; none where the caller has not imported OpenTelemetry."""
    found: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject  # noqa: PLC0415  only who uses it has it

        inject(found)
    return found


def _refusal_for(status: int) -> type[Refused]:
    match status:
        case 401 | 403:
            return Unauthorized
        case 429:
            return RateLimited
        case 502 | 503 | 504:
            return Unavailable
        case _ if status >= 500:
            return GatewayFault
        case _:
            return RequestRefused


def _text(entry: Mapping[str, object], name: str) -> str | None:
    value = entry.get(name)
    return value if isinstance(value, str) else None
