"""A server span for each request of an ASGI application, in the trace that the request's headers name.

app = traced(app, "/v1/embeddings")         # the same app while tracing is off
"""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import request_ids, tracing

CONTEXT_HEADERS: Final = (b"traceparent", b"tracestate")


def traced(app: ASGIApp, route: str) -> ASGIApp:
    """`app` with spans called by `route`, a path of few different values; `app` itself while tracing is off."""
    return app if tracing.tracer is None else _Traced(app, route)


class _Traced:
    """See `traced`."""

    def __init__(self, app: ASGIApp, route: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._app = app
        self._route = route
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if tracing.tracer is None:  # the process ends
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415  see above

        named = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in CONTEXT_HEADERS}
        attributes = {
            "http.request.method": scope["method"],
            "http.route": self._route,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "dejavec.request_id": request_ids.current.get(),
        }
        with tracing.tracer.start_as_current_span(
            f"{scope['method']} {self._route}",
            context=self._propagator.extract(named),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as current:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    current.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        current.set_attribute("error.type", str(status))
                        current.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, send_and_note)
