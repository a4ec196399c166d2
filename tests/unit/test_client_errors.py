"""The exception tree is as documented, and every exception of aiohttp becomes one of it."""

import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import aiohttp
import orjson
import pytest

from common.reply_parsing import retry_after_s
from gateway.client import errors
from gateway.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    GatewayFault,
    InvalidReply,
    RateLimited,
    RequestRefused,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from gateway.client.transport import Reply, raise_for_status, translated


def subclasses(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def documented_tree() -> dict[str, str | None]:
    """Class name -> parent's name, read from the drawing in the module's docstring."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r" {4}([│├└─ ]*)(\w+)(?:  |$)", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else None
    return parents


def aiohttp_exceptions() -> list[type[Exception]]:
    named = [getattr(aiohttp, name) for name in aiohttp.__all__]
    return [kind for kind in named if inspect.isclass(kind) and issubclass(kind, aiohttp.ClientError)]


def example(kind: type[Exception]) -> Exception:
    """An instance of `kind` made without the arguments that each class wants."""
    seen = type(kind.__name__, (kind,), {"__init__": lambda self: None, "__str__": lambda self: "as seen"})
    return seen()


def test_the_docstring_draws_the_tree():
    """The drawing in the module's docstring and the classes agree, both ways."""
    classes = {ClientError, *subclasses(ClientError)}
    real = {c.__name__: (c.__base__.__name__ if c is not ClientError else None) for c in classes}
    assert documented_tree() == real


@pytest.mark.parametrize("kind", aiohttp_exceptions(), ids=lambda kind: kind.__name__)
def test_every_aiohttp_exception_is_mapped(kind):
    """Whatever aiohttp raises leaves the boundary as a ClientError that names the URL and keeps its cause."""
    error = example(kind)
    with pytest.raises(ClientError, match="http://gateway") as caught, translated("http://gateway"):
        raise error
    assert caught.value.__cause__ is error
    assert type(caught.value) is not ClientError


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (TimeoutError(), TimedOut),
        (example(aiohttp.ConnectionTimeoutError), TimedOut),
        (example(aiohttp.SocketTimeoutError), TimedOut),
        (example(aiohttp.ClientConnectorDNSError), ConnectFailed),
        (example(aiohttp.ClientConnectorCertificateError), ConnectFailed),
        (example(aiohttp.InvalidURL), ConnectFailed),
        (ConnectionRefusedError(), ConnectFailed),
        (ConnectionResetError(), ConnectionLost),
        (aiohttp.ServerDisconnectedError(), ConnectionLost),
        (aiohttp.ClientPayloadError(), ConnectionLost),
        (aiohttp.ClientConnectionResetError(), ConnectionLost),
        (example(aiohttp.ClientResponseError), InvalidReply),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_becomes_what(error, becomes):
    """Time-outs, failed connections, broken ones and nonsense are told apart."""
    with pytest.raises(becomes), translated("http://gateway"):
        raise error


def test_bugs_are_not_translated():
    """A ValueError of our own making stays one."""
    with pytest.raises(ValueError, match="ours"), translated("http://gateway"):
        raise ValueError("ours")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, RequestRefused),
        (400, RequestRefused),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, RequestRefused),
        (413, RequestRefused),
        (422, RequestRefused),
        (429, RateLimited),
        (500, GatewayFault),
        (501, GatewayFault),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_each_status_has_its_exception(status, kind):
    """Status and envelope arrive in the exception's fields."""
    body = orjson.dumps({"error": {"message": "why", "type": "t", "param": "input", "code": "c"}})
    headers = {"x-request-id": "r1", "Retry-After": "7"}
    with pytest.raises(kind, match="why") as caught:
        raise_for_status(Reply("http://gateway", status, headers, body))
    error = caught.value
    assert (error.status, error.kind, error.param, error.code) == (status, "t", "input", "c")
    assert (error.request_id, error.retry_after_s) == ("r1", 7)


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": "plain"}', b'{"error": null}', b"\xff"]
)
def test_an_error_page_that_is_no_envelope_still_has_a_message(body):
    """What a proxy answers in its own words is told, cut short, and breaks nothing."""
    with pytest.raises(Unavailable) as caught:
        raise_for_status(Reply("http://gateway", 502, {}, body))
    assert caught.value.message
    assert caught.value.param is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("soon", None),
        ("², 3", None),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:28:10 -0000", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    """Both forms of the header are read; nonsense and the past ask for no wait."""
    assert retry_after_s(header, now=datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds
