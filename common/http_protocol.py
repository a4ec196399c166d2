"""One HTTP connection: uvicorn's, with limits on what it may cost, and with framing that cannot be read in two ways.

uvicorn parses with httptools, which accepts a head of any size, waits for it for any time, and stops at an upgrade that
is not taken. The protocol here keeps uvicorn's parser and its cycle of a request and adds:

- a head, and the trailers of a body, have at most 64 KiB and 100 fields; then 431;
- the first byte and the rest of a head come within 10 s; then 408, or a plain close where nothing came;
- an upgrade is ignored, as RFC 9110 section 7.8 has it, and the request is answered, with its body;
- framing that a proxy may read otherwise is refused: no or two `Host`, two `Authorization` or `Content-Type`,
  `Transfer-Encoding` other than `chunked`, a `Content-Length` of more than 19 digits;
- a refused request is answered, then the connection is closed: what still arrives is read and thrown away for 5 s,
  since a close at once would reset the connection before the client has read its answer;
- a client that reads nothing of its reply for `stalled_send_s` is dropped;
- with `max_connections` open, the one that has waited longest without a request in work makes room for a new one.
  Where all have one, a new connection gets 503, but for `/health`, `/ready` and `/metrics`.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from common.asgi import MAX_SMALL_BODY, WHOLE_BODY
from common.http_refusals import health_only, refusal
from common.send_watch import SendWatch

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEAD_FIELDS: Final = 100
HEAD_TIMEOUT_S: Final = 10.0
DISCARD_S: Final = 5.0  # how long the rest of a request is read after its answer
MAX_PIPELINED: Final = 32  # requests that wait on one connection; it is closed after them
RESERVED_CONNECTIONS: Final = 32  # beyond max_connections: for health checks, and to say 503
LOG_INTERVAL_S: Final = 60.0

_SINGLE: Final = (b"host", b"authorization", b"content-type", b"content-length")

log = logging.getLogger("dejavec.http")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`max_connections` of one process; seconds that a client may read nothing of its reply."""

    max_connections: int
    stalled_send_s: float


class LimitedProtocol(HttpToolsProtocol):
    """One connection; see the module."""

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], **loop: Any
    ) -> None:
        super().__init__(config, server_state, app_state, **loop)
        self._limits: ConnectionLimits = config.limits  # type: ignore[attr-defined]  # of ServerConfig
        self._waiting = _WAITING.setdefault(server_state, {})
        self._socket: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._timer: asyncio.TimerHandle | None = None  # of a head, or of what is read after an answer
        self._in_head = True  # between two requests, or within a head
        self._head_begun = False
        self._unparsed = 0  # bytes since the parser last made something of them
        self._trailer_fields = 0
        self._refusal: tuple[int, str] | None = None
        self._is_last = False  # further requests are not answered
        self._is_discarding = False  # nor even parsed
        self._sending: SendWatch = None  # type: ignore[assignment]  # until connection_made

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room where there is none, and wait for a first head."""
        super().connection_made(transport)
        self._socket = transport
        self._sending = SendWatch(transport, self._limits.stalled_send_s, self._drop_silent_client)
        self.transport = cast(asyncio.Transport, _GentlyClosing(transport, self._close))
        excess = len(self.connections) - self._limits.max_connections
        if excess > 0 and self._make_room():
            pass
        elif excess > RESERVED_CONNECTIONS:
            self.abort()
            return
        elif excess > 0:
            self._log_full()
            self.app = health_only(self.app)
        self._waiting[self] = None
        self._start_timer(HEAD_TIMEOUT_S, self._head_is_late)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest, of those to which nothing is left to send."""
        for connection in self._waiting:
            if not connection._socket.get_write_buffer_size():
                connection.abort()
                return True
        return False

    def _log_full(self) -> None:
        """Once a minute at most."""
        now = self.loop.time()
        if now - _LOGGED_AT.get(self.server_state, float("-inf")) >= LOG_INTERVAL_S:
            _LOGGED_AT[self.server_state] = now
            limit = self._limits.max_connections
            log.warning("all %d connections have a request in work; new ones get 503 (max_connections)", limit)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._waiting.pop(self, None)
        self._stop_timer()
        self._sending.stop()
        self._is_discarding = True
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection without sending what is left."""
        self._waiting.pop(self, None)
        self._is_discarding = True
        self.connections.discard(self)  # its place is free now, not at the next turn of the loop
        self._socket.abort()

    def shutdown(self) -> None:
        """The server ends: close what has no request in work, and let the rest finish."""
        if not self._is_idle:
            self.cycle.keep_alive = False
        elif self._is_discarding:
            self.abort()
        else:
            self._close()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        if not self.transport.is_closing():
            self._close()

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; refuse what cannot be parsed or is too much."""
        if self._is_discarding:
            return
        self._unset_keepalive_if_required()
        self._unparsed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "this is not a well-formed HTTP/1.1 request")))
            return
        if self._unparsed > MAX_HEAD_BYTES:
            self._refuse(431, f"a head or trailers may have {MAX_HEAD_BYTES} bytes")
        elif self._in_head and self._timer is None and self._is_idle:
            self._start_timer(HEAD_TIMEOUT_S, self._head_is_late)

    def _feed(self, data: bytes) -> None:
        """Parse `data`; where the head asks for an upgrade, parse that head again without it, and what follows."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
            start = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            data = _head_without_upgrade(start, self.headers) + rest
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._head_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of a head; those of trailers are counted and dropped."""
        if not self._in_head:
            self._trailer_fields += 1
            if self._trailer_fields > MAX_HEAD_FIELDS:
                self._fail(431, f"trailers may have {MAX_HEAD_FIELDS} fields")
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEAD_FIELDS:
            self._fail(431, f"a head may have {MAX_HEAD_FIELDS} fields")

    def on_headers_complete(self) -> None:
        """Check a whole head, and hand the request on unless its framing is in doubt."""
        if self.parser.get_method() == b"CONNECT":
            self._fail(405, "CONNECT is not served: this is no proxy")
        if self.parser.should_upgrade():
            return  # the parser stops here by itself; see _feed
        if self._is_last:
            return
        self._check_head()
        self._in_head = self._head_begun = False
        self._unparsed = self._trailer_fields = 0
        self._stop_timer()
        self._waiting.pop(self, None)
        super().on_headers_complete()
        if len(self.pipeline) >= MAX_PIPELINED:
            self.cycle.keep_alive = False
            self._is_last = True

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._unparsed = 0
        if not self._in_head:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        if self._in_head:
            return  # of a head that is parsed again without its upgrade, or of a request after the last
        self._in_head = True
        self._unparsed = 0
        body = self.cycle.body
        whole = bytes(body) if len(body) <= MAX_SMALL_BODY else None
        self.cycle.scope[WHOLE_BODY] = whole  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()
        if self._is_idle:
            self._stop_timer()  # the rest of a request that was answered before has come

    def on_response_complete(self) -> None:
        """A request is answered; the next is awaited, or the rest of this one."""
        super().on_response_complete()
        if self._socket.is_closing() or not self._is_idle:
            return
        self._waiting[self] = None
        if self._is_discarding:
            return
        if not self._in_head:
            self._start_timer(DISCARD_S, self._discard)
        elif self._head_begun:
            self._start_timer(HEAD_TIMEOUT_S, self._head_is_late)

    @property
    def _is_idle(self) -> bool:
        """Whether no request of this connection is in work."""
        return not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    # Refusals

    def _check_head(self) -> None:
        """Refuse a head that is too large, or that somebody else might read otherwise."""
        fields = dict(self.headers)
        if len(fields) != len(self.headers):
            names = [name for name, _ in self.headers]
            for single in _SINGLE:
                if names.count(single) > 1:
                    self._fail(400, f"two `{single.decode()}` fields in one head")
        if b"host" not in fields and self.parser.get_http_version() == "1.1":
            self._fail(400, "HTTP/1.1 needs a `Host` field")
        if b"transfer-encoding" in fields:
            coding = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
            if coding.strip().lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                self._fail(501, "the only transfer coding here is `chunked`, of HTTP/1.1")
        if len(fields.get(b"content-length", b"")) > 19:
            self._fail(400, "`Content-Length` has more than 19 digits")
        if self._unparsed > MAX_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._fail(431, f"a head may have {MAX_HEAD_BYTES} bytes")

    def _fail(self, status: int, message: str) -> None:
        """Stop the parser; `data_received` answers."""
        self._refusal = (status, message)
        raise _Refused

    def _head_is_late(self) -> None:
        self._timer = None
        if self._head_begun or self._unparsed:
            self._refuse(408, f"the head of the request did not arrive within {HEAD_TIMEOUT_S:g} s")
        else:
            self._close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be read as a request, and close.

        Where an earlier request is still in work, its answer comes first and is the last.
        """
        if self._in_head and not self._is_idle:
            self.cycle.keep_alive = False
            self._is_discarding = self._is_last = True
            self.flow.resume_reading()
        elif self._in_head:
            self._socket.write(refusal(status, message))
            self._discard()
        elif self.cycle.response_complete:  # the request is answered; this was the rest of its body
            self._discard()
        elif self.pipeline or self.cycle.response_started:
            self.abort()
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._socket.write(refusal(status, message))
            self._discard()

    # Closing

    def _close(self) -> None:
        """Close once all is sent; read on for a while where more of a request may be on its way."""
        if self._is_discarding or not self._in_head:
            self._discard()
        else:
            self._is_discarding = True
            self._socket.close()
            self._sending.start()

    def _discard(self) -> None:
        """End our side of the connection, and read on until the client ends its own, or until DISCARD_S."""
        self._is_discarding = True
        self.flow.resume_reading()
        if self._socket.is_closing():
            return
        if self._socket.can_write_eof():
            self._socket.write_eof()
        self._waiting[self] = None
        self._start_timer(DISCARD_S, self.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than is written."""
        super().pause_writing()
        self._sending.start()

    def resume_writing(self) -> None:
        """The client has read most of what was written."""
        super().resume_writing()
        self._sending.progress()

    def _drop_silent_client(self) -> None:
        log.info("a client read nothing of its reply for %g s; connection dropped", self._limits.stalled_send_s)
        self.abort()

    def _start_timer(self, after_s: float, then: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(after_s, then)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Refused(Exception):
    """Ends the parsing of a connection; httptools reports it as an error of the parser."""


class _GentlyClosing:
    """A transport whose `close` is the protocol's: uvicorn's cycle closes the connection after the last answer."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._is_closed = False
        self._close = close
        self.write = transport.write
        self.get_extra_info = transport.get_extra_info

    def close(self) -> None:
        if not self._is_closed and not self._transport.is_closing():
            self._is_closed = True
            self._close()

    def is_closing(self) -> bool:
        return self._is_closed or self._transport.is_closing()


_WAITING: WeakKeyDictionary[ServerState, dict[LimitedProtocol, None]] = WeakKeyDictionary()
"""Of each server: its connections without a request in work, the longest waiting first."""
_LOGGED_AT: WeakKeyDictionary[ServerState, float] = WeakKeyDictionary()
"""When it last logged that it is full; loop time."""


def _head_without_upgrade(start: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    lines = [start]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            kept = [option for option in options if option.lower() not in (b"upgrade", b"http2-settings")]
            lines.append(b"connection: " + b", ".join(kept))
        elif name != b"upgrade":
            lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])
