"""Traces by OpenTelemetry, in the W3C's context: one request through client, gateway, Redis and engine.

    tracing.configure("dejavec-gateway")            # once at a process's start, before the application is made
    if tracing.tracer is not None: ...              # all that a request costs while it is off

Tracing is on where OpenTelemetry's own variables name a collector (OTEL_EXPORTER_OTLP_ENDPOINT) and the extra `otel` is
installed; its tracing is not imported otherwise. Spans go out in the background over OTLP/HTTP; what a
collector that is away does not take is dropped. Spans hold numbers and names, never texts, keys or vectors, and of an
error its type alone. `common.traced_app` has the server's side.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

from common import logs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("dejavec.tracing")

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FLUSH_S: Final = 2.0  # at the end, for what has not been sent

Kind = Literal["internal", "client"]
Attributes = Mapping[str, Any]

tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def configure(service: str) -> None:
    """Start tracing if OTEL_* variables ask for it; `service` is this process's name unless they give one."""
    global tracer, _provider  # noqa: PLW0603  one for the process, so that a look is all that tracing costs when off
    if not _is_wanted():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  see above
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set and a package is missing: .venv/bin/pip install -e '.[otel]'"
        )
        return
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = _provider.get_tracer("dejavec")
    logs.trace_id_of_now = _trace_id
    log.info("traces go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names")


async def aclose() -> None:
    """Make no more spans, and send what is left: for `FLUSH_S` at most, however long a collector hangs."""
    global tracer, _provider
    provider, tracer, _provider, logs.trace_id_of_now = _provider, None, None, None
    if provider is not None:
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, FLUSH_S)


@contextmanager
def span(name: str, attributes: Attributes, kind: Kind = "internal") -> Iterator["Span"]:
    """A span around a block, under the current one; an exception's type is noted. Only while tracing is on."""
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415  see above

    assert tracer is not None
    with tracer.start_as_current_span(
        name,
        kind=SpanKind[kind.upper()],
        attributes=dict(attributes),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(Status(StatusCode.ERROR))
            raise


def record(name: str, duration_s: float, attributes: Attributes, kind: Kind = "internal") -> None:
    """A span under the current one that took `duration_s` and ends now. Only while tracing is on."""
    from opentelemetry.trace import SpanKind  # noqa: PLC0415  see above

    assert tracer is not None
    end_ns = time.time_ns()
    start_ns = end_ns - int(duration_s * 1e9)
    made = tracer.start_span(name, kind=SpanKind[kind.upper()], attributes=dict(attributes), start_time=start_ns)
    made.end(end_ns)


def describe(attributes: Attributes) -> None:
    """Add to the current span. Only while tracing is on."""
    from opentelemetry.trace import get_current_span  # noqa: PLC0415  see above

    get_current_span().set_attributes(dict(attributes))


def inject(headers: dict[str, str]) -> None:
    """Name the current span in a request's headers. Only while tracing is on."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  see above

    TraceContextTextMapPropagator().inject(headers)


def _is_wanted() -> bool:
    """OpenTelemetry's own variables, as its documentation has them."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in {"", "otlp"}:
        return False
    protocol = next((value for name in PROTOCOLS if (value := os.environ.get(name))), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL is %r: traces are sent as http/protobuf (port 4318) all the same", protocol
        )
    return True


def _trace_id() -> str:
    from opentelemetry.trace import format_trace_id, get_current_span  # noqa: PLC0415  see above

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""
