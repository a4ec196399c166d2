"""A collector for tests: takes spans over OTLP/HTTP as a real one does, and keeps them.

with running_collector() as collector: collector.url, collector.spans
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class CollectedSpan:
    """One span: ids as hex, kind as in the protocol (1 internal, 2 server, 3 client)."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, object] = field(hash=False)


class Collector:
    """What has arrived."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.raw = b""
        self.url = ""

    def take(self, body: bytes) -> None:
        """One export request."""
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_collected(names["service.name"], one) for one in scope.spans]

    def named(self, service: str, name: str) -> list[CollectedSpan]:
        """Those of one process and one name."""
        return [span for span in list(self.spans) if (span.service, span.name) == (service, name)]


@contextmanager
def running_collector() -> Iterator[Collector]:
    """One on a free port until the block ends."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def _collected(service: str, span: Span) -> CollectedSpan:
    attributes = {one.key: _value(one.value) for one in span.attributes}
    ids = [part.hex() for part in (span.trace_id, span.span_id, span.parent_span_id)]
    times = span.start_time_unix_nano, span.end_time_unix_nano
    return CollectedSpan(service, span.name, span.kind, *ids, *times, attributes)


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
