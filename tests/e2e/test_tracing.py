"""Traces over real HTTP: one request is one trace through client, gateway, Redis and engine, and no text is in it."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from gateway.client import AsyncClient
from tests.e2e.stack import Run, running
from tests.integration.engine_under_test import DIMENSIONS

if TYPE_CHECKING:
    from tests.otlp_collector import CollectedSpan, Collector

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")
trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel` is not installed")

INTERNAL, SERVER, CLIENT = 1, 2, 3
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TEXT = "a quick brown fox"


@pytest.fixture(scope="module")
def collector() -> "Iterator[Collector]":
    from tests.otlp_collector import running_collector

    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, collector: "Collector") -> Iterator[Run]:
    """Everything, with spans sent ten times a second."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    settings = {"DEJAVEC_GATEWAY_WORKERS": "2", "DEJAVEC_LOCAL_CACHE_MB": "0", "DEJAVEC_REDIS_TIMEOUT_MS": "2000"}
    with running(tmp_path_factory.mktemp("traced"), **variables, **settings) as run:
        unsampled = f"00-{'4' * 32}-{PARENT}-00"
        ready = {"input": "both workers are ready"}
        until(
            lambda: all(post(run, ready, traceparent=unsampled).status_code == 200 for _ in range(20)), "both workers"
        )
        yield run


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, f"waited in vain: {what}"
        time.sleep(0.02)


def post(run: Run, body: dict[str, object], **headers: str) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{run.port}/v1/embeddings", json=body, headers=headers, timeout=60)


def spans_of(collector: "Collector", trace_id: str) -> "dict[tuple[str, str], CollectedSpan]":
    """A trace's spans by process and name, once those of both processes have ended, their requests' own the last."""

    def found() -> "dict[tuple[str, str], CollectedSpan]":
        return {(one.service, one.name): one for one in list(collector.spans) if one.trace_id == trace_id}

    last = {("dejavec-gateway", "POST /v1/embeddings"), ("dejavec-engine", "POST /vectors")}
    until(lambda: last <= found().keys(), "its spans")
    return found()


def test_one_request_is_one_trace(run: Run, collector: "Collector") -> None:
    """Each span has the right parent, from the caller's to the engine's, and what the conventions name."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced-1"}
    reply = post(run, {"model": "tiny", "input": [TEXT, "b c"]}, **headers)
    assert reply.status_code == 200
    found = spans_of(collector, TRACE)
    server = found["dejavec-gateway", "POST /v1/embeddings"]
    work = found["dejavec-gateway", "embeddings tiny"]
    call = found["dejavec-gateway", "POST /vectors"]
    engine = found["dejavec-engine", "POST /vectors"]
    redis = found["dejavec-gateway", "MGET"]
    assert [server.parent_id, work.parent_id] == [PARENT, server.span_id]
    assert [call.parent_id, redis.parent_id, engine.parent_id] == [work.span_id, work.span_id, call.span_id]
    assert [one.kind for one in (server, work, call, engine, redis)] == [SERVER, INTERNAL, CLIENT, SERVER, CLIENT]
    stages = {"local", "tokenize", "engine"}
    assert {found["dejavec-gateway", name].parent_id for name in stages} == {work.span_id}
    assert server.attributes["http.response.status_code"] == engine.attributes["http.response.status_code"] == 200
    assert server.attributes["dejavec.request_id"] == engine.attributes["dejavec.request_id"] == "traced-1"
    assert work.attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "dejavec",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.embeddings.dimension.count": DIMENSIONS,
        "gen_ai.usage.input_tokens": reply.json()["usage"]["prompt_tokens"],
        "dejavec.namespace": "default",
        "dejavec.texts": 2,
        "dejavec.texts.miss": 2,
    }
    assert redis.attributes["db.system.name"] == "redis"
    assert server.start_ns <= work.start_ns <= call.start_ns <= call.end_ns <= work.end_ns <= server.end_ns


async def test_the_dejavec_client_passes_the_callers_span_on(run: Run, collector: "Collector") -> None:
    """Where the caller uses OpenTelemetry."""
    tracer = trace.TracerProvider(shutdown_on_exit=False).get_tracer("caller")
    async with AsyncClient(f"http://127.0.0.1:{run.port}") as client:
        with tracer.start_as_current_span("the caller's work") as span:
            await client.embed(["d e f"])
    context = span.get_span_context()
    found = spans_of(collector, f"{context.trace_id:032x}")
    assert found["dejavec-gateway", "POST /v1/embeddings"].parent_id == f"{context.span_id:016x}"


def test_errors_show_in_the_trace_by_their_type(run: Run, collector: "Collector") -> None:
    """A request that is refused has its status, and begins a trace of its own where the caller names none."""
    before = len(collector.named("dejavec-gateway", "POST /v1/embeddings"))
    assert post(run, {"model": "another", "input": TEXT}).status_code == 404
    until(lambda: len(collector.named("dejavec-gateway", "POST /v1/embeddings")) > before, "the span")
    span = collector.named("dejavec-gateway", "POST /v1/embeddings")[-1]
    assert (span.parent_id, span.attributes["http.response.status_code"]) == ("", 404)


def test_a_caller_may_ask_for_no_trace(run: Run, collector: "Collector") -> None:
    """Its flag says so: no process sends a span."""
    unsampled = "1" * 32
    assert post(run, {"input": "g h i"}, traceparent=f"00-{unsampled}-{PARENT}-00").status_code == 200
    sampled = "2" * 32
    assert post(run, {"input": "j k l"}, traceparent=f"00-{sampled}-{PARENT}-01").status_code == 200
    spans_of(collector, sampled)
    assert [one for one in collector.spans if one.trace_id == unsampled] == []


def test_no_text_is_in_any_span(run: Run, collector: "Collector") -> None:
    """Nor in any other part of what is sent; after requests of all kinds."""
    word = "zebra-crossing-at-midnight"
    key = "a-key-that-is-not-known"
    for body in ({"input": word}, {"model": word, "input": word}, {"input": [word], "dimensions": word}, {word: word}):
        post(run, body, authorization=f"Bearer {key}", baggage=f"word={word}")
    marker = "3" * 32
    post(run, {"input": "m n o"}, traceparent=f"00-{marker}-{PARENT}-01")
    spans_of(collector, marker)
    for secret in (word, key, TEXT):
        assert secret.encode() not in collector.raw
