"""The lean HTTP path of the embedding routes: admission, authentication, body in, reply out, errors in the envelope.

`Front.route(handler)` makes an ASGI endpoint of a function from `Exchange` to `Reply`. These routes are plain ASGI
rather than framework handlers, because a cached answer costs less than a framework's per-request work. Bodies, replies
and disconnects are those of `common.asgi` and `common.disconnects`, with this gateway's limits and errors.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import request_ids
from common.asgi import JSON, BodyLimits, ClientGone, Headers, Reply, send_reply
from common.content_coding import MIN_REPLY_BYTES, compressed
from common.disconnects import DisconnectWatch
from gateway.admission import UNCOUNTED_BYTES, Admission, Place
from gateway.auth_failures import AuthFailures
from gateway.bodies import body_of, expanded_body
from gateway.errors import (
    BadRequest,
    DeadlineExceeded,
    EngineAway,
    GatewayError,
    InternalError,
    Unauthorized,
    UnsupportedMedia,
)
from gateway.metrics import CLIENT_GONE, LATENCIES, REQUESTS_NOW, answered
from gateway.presented_key import KEY_HEADERS, one_key
from gateway.settings import GatewaySettings
from gateway.tenants import Tenant, Tenants
from gateway.work_pool import WorkPool

__all__ = ["Exchange", "Front", "Reply", "RequestIds"]

log = logging.getLogger("dejavec.gateway")

WATCH_AFTER_S: Final = 0.005  # an answer from the cache is faster, and is not worth watching the connection for
MAX_SMALL_BODY: Final = 1024 * 1024  # of operators' requests
WITH_BODY: Final = ("POST", "PUT", "PATCH", "DELETE")
OF_THE_CACHE: Final = (b"x-cache-control", b"x-min-fidelity")


@dataclass(slots=True)
class Exchange:
    """One request, as it is passed to a route."""

    headers: dict[bytes, bytes]
    body: bytes
    tenant: Tenant
    started: float  # time.perf_counter() when the request came
    deadline: float  # event-loop time
    place: Place

    def take_body(self) -> bytes:
        """The body, once: what is parsed need not stay in memory beside what came of it."""
        body, self.body = self.body, b""
        return body


Handler = Callable[[Exchange], Awaitable[Reply]]
ErrorBody = Callable[[GatewayError], bytes]


class Front:
    """What all embedding routes share: limits, tenants, and the number of requests in work."""

    def __init__(self, settings: GatewaySettings, tenants: Tenants, pool: WorkPool) -> None:
        self._limits = BodyLimits(settings.max_body_mb * 1024 * 1024, settings.body_timeout_s)
        self._small_limits = BodyLimits(MAX_SMALL_BODY, settings.body_timeout_s)
        self._request_timeout_s = settings.request_timeout_s
        self.admission = Admission(
            settings.max_concurrent_requests, settings.max_bodies_bytes, is_shared=tenants.are_several
        )
        self._tenants = tenants
        self._pool = pool
        self._failures = AuthFailures()
        self._watch = DisconnectWatch(WATCH_AFTER_S)

    @property
    def in_flight(self) -> int:
        """Requests in work: admitted, and their replies not yet sent."""
        return self.admission.requests

    def tenants_changed(self) -> None:
        """There are other tenants: share what there is among them."""
        self.admission.is_shared = self._tenants.are_several

    def route(self, handler: Handler, error_body: ErrorBody = GatewayError.body) -> ASGIApp:
        """An ASGI app answering with `handler`; `error_body`: the shape of its errors."""
        return _Route(self, handler, error_body)

    async def answer(
        self,
        handler: Handler,
        scope: Scope,
        receive: Receive,
        place: Place,
        error_body: ErrorBody = GatewayError.body,
    ) -> Reply:
        """The reply to one request, errors included; `place` then has what it holds. Raises ClientGone."""
        started = time.perf_counter()
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            if len(headers) < len(scope["headers"]):
                _refuse_contradictions(scope["headers"], headers)
            tenant = self._tenants.open or self._tenants.of(one_key(scope["headers"], headers))
            place.enter(tenant.namespace)
            if tenant.requests is not None:
                await tenant.admit()
            body = await body_of(headers, receive, self._limits, place, scope)
            if b"content-encoding" in headers:
                body = await self._expanded(body, headers, place, tenant)
            deadline = asyncio.get_running_loop().time() + self._request_timeout_s
            exchange = Exchange(headers, body, tenant, started, deadline, place)
            del body  # the exchange alone holds it, and gives it away
            with self._watch.guard(receive, deadline):
                reply = await handler(exchange)
                if len(reply.body) < MIN_REPLY_BYTES and b"q=0" not in headers.get(b"accept-encoding", b""):
                    return reply
                collect = partial(self._pool.collect, tenant.namespace)
                return await compressed(reply, headers.get(b"accept-encoding"), collect)
        except Unauthorized as error:
            return _refusal(self.failed(scope, error), error_body)
        except GatewayError as error:
            if error.status >= 500 and not isinstance(error, EngineAway):  # which its client has logged
                log.warning("answered with %d: %s", error.status, error.message)
            return _refusal(error, error_body)
        except TimeoutError:
            return _refusal(DeadlineExceeded("no answer within the request's deadline", retry_after_s=1), error_body)
        except ClientGone:
            raise
        except Exception:
            log.exception("a request failed in an unforeseen way")
            message = "an internal fault; the gateway's log has it under this x-request-id"
            return _refusal(InternalError(message), error_body)
        finally:
            LATENCIES.add(time.perf_counter() - started)

    async def _expanded(self, body: bytes, headers: dict[bytes, bytes], place: Place, tenant: Tenant) -> bytes:
        coding = headers[b"content-encoding"]
        return await expanded_body(body, coding, self._limits.max_bytes, place, self._pool, tenant.namespace)

    def failed(self, scope: Scope, error: Unauthorized) -> GatewayError:
        """The error to answer a request with that has no right key or token; wrong ones are counted by address."""
        if not any(name == b"authorization" or name in KEY_HEADERS for name, _ in scope["headers"]):
            return error
        host, _ = scope.get("client") or ("", 0)
        return self._failures.count(host, error)

    def guarded(self, app: ASGIApp, prefix: str, check: Callable[[bytes | None], None]) -> ASGIApp:
        """`app` with its paths under `prefix` behind a check of the Authorization header, then a bounded body."""
        return _Guarded(self, app, prefix, check)

    async def read_small_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The body of an operator's request. Raises UnsupportedMedia, BodyTooLarge, BodyTimeout, ClientGone."""
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UnsupportedMedia("operators' requests are small: send them uncompressed")
        return await body_of(headers, receive, self._small_limits)


class _Route:
    """An ASGI endpoint; a class, so that the router calls it as it is."""

    def __init__(self, front: Front, handler: Handler, error_body: ErrorBody) -> None:
        self._front = front
        self._handler = handler
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its head to the end of its reply; until then it is in flight and holds its memory."""
        place = Place(self._front.admission)
        REQUESTS_NOW.now += 1
        try:
            reply = await self._front.answer(self._handler, scope, receive, place, self._error_body)
            answered(reply.status)
            if len(reply.body) > UNCOUNTED_BYTES:
                place.keep_reply(len(reply.body))
            await send_reply(reply, send)
        except ClientGone:
            CLIENT_GONE.inc()
            answered(499)
        finally:
            place.leave()
            REQUESTS_NOW.now -= 1


class _Guarded:
    """The framework's routes under a prefix: authorized before the body is read, and with small bodies only."""

    def __init__(self, front: Front, app: ASGIApp, prefix: str, check: Callable[[bytes | None], None]) -> None:
        self._front = front
        self._app = app
        self._prefix = prefix
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            self._check(headers.get(b"authorization"))
            body = await self._front.read_small_body(headers, receive) if scope["method"] in WITH_BODY else b""
        except Unauthorized as error:
            await send_reply(_refusal(self._front.failed(scope, error)), send)
            return
        except GatewayError as error:
            await send_reply(_refusal(error), send)
            return
        except ClientGone:
            return
        if b"content-type" not in headers:
            scope["headers"] = [*scope["headers"], (b"content-type", JSON)]
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)


class RequestIds:
    """Outermost middleware: every response carries `x-request-id`, the client's own where it is a sane one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == request_ids.HEADER_NAME), None)
        request_id = request_ids.accepted(given) or request_ids.new()
        request_ids.current.set(request_id)
        header = (request_ids.HEADER_NAME, request_id.encode())

        def send_with_id(message: Message) -> Awaitable[None]:  # not async: one coroutine a message less
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            return send(message)

        await self._app(scope, receive, send_with_id)


def _refusal(error: GatewayError, error_body: ErrorBody = GatewayError.body) -> Reply:
    return Reply(error_body(error), error.headers(), error.status)


def _refuse_contradictions(fields: Headers, headers: dict[bytes, bytes]) -> None:
    """Raises BadRequest where a field comes twice that says what may be kept or served: the last one must not win."""
    for name, value in fields:
        if name in OF_THE_CACHE and headers[name] != value:
            shown = name.decode()
            raise BadRequest(f"{shown} comes twice, with different values; send one of them", param=shown)
