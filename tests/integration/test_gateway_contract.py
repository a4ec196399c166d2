"""The HTTP contract of the gateway, over real HTTP and a real Redis, with a stand-in engine."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from cache.semantic.lookup import Lookup
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.predictor import Choice
from engine.protocol import Lane
from gateway.embed_request import EmbedResult
from gateway.routes.embedding_call import result_headers
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import DIMENSIONS, MAX_TOKENS, StandInEngine, tiny_tokenizer, vector_of

KEYS = ["message", "type", "param", "code"]


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


@pytest.fixture
async def client(engine: StandInEngine, redis: RunningRedis) -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway(engine.url, redis_url=redis.url, max_body_mb=1) as client:
        await until_ready(client)
        yield client


async def post(
    client: httpx.AsyncClient, inputs: Any, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"model": "tiny", "input": inputs, **more}
    return await client.post("/v1/embeddings", json=body, headers=headers)


def vectors(reply: httpx.Response) -> list[list[float]]:
    assert reply.status_code == 200, reply.text
    return [item["embedding"] for item in reply.json()["data"]]


def true_vector(text: str) -> list[float]:
    ids = tiny_tokenizer().encode(text).ids
    return [float(x) for x in vector_of(ids)]


def assert_envelope(reply: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert list(error) == KEYS
    assert error["message"]
    assert "Traceback" not in reply.text
    assert error["param"] == param
    assert reply.headers["x-request-id"]
    return dict(error)


async def test_string_input_answers_openai_shape_with_exact_usage(client: httpx.AsyncClient) -> None:
    """A string gives one vector, the model's name, and tokens counted with the special ones."""
    reply = await post(client, "a b c")
    assert reply.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": pytest.approx(true_vector("a b c"))}],
        "model": "tiny",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    assert reply.headers["x-cache"] == "miss"


async def test_floats_come_back_bit_for_bit(client: httpx.AsyncClient) -> None:
    """JSON floats and base64 carry the same float32 numbers."""
    floats = np.array(vectors(await post(client, "a b"))[0], dtype=np.float32)
    encoded = (await post(client, "a b", encoding_format="base64")).json()["data"][0]["embedding"]
    assert floats.tobytes() == base64.b64decode(encoded)


async def test_second_call_is_local_and_without_l0_exact(
    client: httpx.AsyncClient, engine: StandInEngine, redis: RunningRedis
) -> None:
    """The same text is a miss, then local; another gateway on the same Redis answers exact, with equal bytes."""
    first = await post(client, "a b c d", encoding_format="base64")
    second = await post(client, "a b c d", encoding_format="base64")
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "local")
    async with running_gateway(engine.url, redis_url=redis.url, local_cache_mb=0) as other:
        await until_ready(other)
        third = await post(other, "a b c d", encoding_format="base64")
        assert third.headers["x-cache"] == "exact"
    assert first.json() == second.json() == third.json()
    assert len(engine.computed) == 1


async def test_batch_of_duplicates_hits_and_misses_keeps_order(
    client: httpx.AsyncClient, engine: StandInEngine
) -> None:
    """Every position gets its own text's vector, and a duplicate is computed once."""
    await post(client, ["b", "one two"])
    texts = ["a", "b", "a", "c", "one two", "d", "c", "a"]
    reply = await post(client, texts)
    assert vectors(reply) == [pytest.approx(true_vector(text)) for text in texts]
    assert reply.headers["x-cache"] == "mixed"
    assert reply.headers["x-cache-items"] == "miss,local,miss*2,local,miss*3"
    assert len(engine.computed) == 2 + 3
    assert reply.json()["usage"]["total_tokens"] == 7 * 3 + 4


async def test_equal_token_ids_hit_whatever_the_text(client: httpx.AsyncClient) -> None:
    """Whitespace variants have equal token ids, so the exact tier serves them without error."""
    first = await post(client, "a b")
    await asyncio.sleep(0.2)
    second = await post(client, "  a\tb ")
    assert second.headers["x-cache"] == "exact"
    assert vectors(first) == vectors(second)


async def test_dimensions_slice_and_renormalise(client: httpx.AsyncClient) -> None:
    """Shortened vectors have unit length and point where the full one's leading part does."""
    short = np.array(vectors(await post(client, "a", dimensions=3))[0])
    full = np.array(true_vector("a"))[:3]
    assert short == pytest.approx(full / np.linalg.norm(full))
    assert vectors(await post(client, "a", dimensions=DIMENSIONS))[0] == pytest.approx(true_vector("a"))


async def test_prompts_change_the_tokens(client: httpx.AsyncClient) -> None:
    """A prompt is put in front, by suffix or by name, and counted; the vector is that of the prompted text."""
    by_suffix = await client.post("/v1/embeddings", json={"model": "tiny:query", "input": "a"})
    by_name = await post(client, "a", prompt_name="query")
    assert vectors(by_suffix)[0] == vectors(by_name)[0] == pytest.approx(true_vector("query : a"))
    assert by_suffix.json()["usage"]["total_tokens"] == 5
    assert vectors(await client.post("/v1/embeddings", json={"model": "tiny:document", "input": "a"}))[
        0
    ] == pytest.approx(true_vector("a"))


async def test_long_input_is_truncated_and_said(client: httpx.AsyncClient) -> None:
    """Over-long inputs are cut at the model's limit; the header counts them, cached or not."""
    for _ in range(2):
        reply = await post(client, ["a " * 50, "b"])
        assert reply.headers["x-truncated"] == "1"
        assert reply.json()["usage"]["total_tokens"] == MAX_TOKENS + 3


async def test_long_input_is_refused_where_truncation_is_not_wanted(client: httpx.AsyncClient) -> None:
    """`truncate: false` refuses, also when the truncated vector is in the cache."""
    for _ in range(2):
        reply = await client.post("/embed", json={"inputs": "b " * 60, "truncate": False})
        assert_envelope(reply, 400, "input")
        assert (await client.post("/embed", json={"inputs": "b " * 60, "truncate": True})).status_code == 200


async def test_embed_answers_a_bare_array(client: httpx.AsyncClient) -> None:
    """text-embeddings-inference's contract: a list of vectors, for a string as for a list."""
    one = await client.post("/embed", json={"inputs": "a", "normalize": True, "truncate": True})
    assert one.json() == [pytest.approx(true_vector("a"))]
    two = await client.post("/embed", json={"inputs": ["a", "b"]})
    assert two.json() == [pytest.approx(true_vector("a")), pytest.approx(true_vector("b"))]


async def test_embed_answers_texts_with_model_and_latency(client: httpx.AsyncClient) -> None:
    """The plain contract: embeddings, model and latency_ms."""
    reply = (await client.post("/embed", json={"texts": ["a", "b"]})).json()
    assert list(reply) == ["embeddings", "model", "latency_ms"]
    assert reply["embeddings"] == [pytest.approx(true_vector("a")), pytest.approx(true_vector("b"))]
    assert reply["model"] == "tiny"
    assert reply["latency_ms"] > 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "tiny", "input": ""}, 400, "input"),
        ({"model": "tiny", "input": []}, 400, "input"),
        ({"model": "tiny", "input": ["a", ""]}, 400, "input"),
        ({"model": "tiny", "input": None}, 400, "input"),
        ({"model": "tiny", "input": 3}, 400, "input"),
        ({"model": "tiny", "input": ["a", 3]}, 400, "input"),
        ({"model": "tiny", "input": [1, 2, 3]}, 400, "input"),
        ({"model": "tiny", "input": [[1, 2], [3]]}, 400, "input"),
        ({"model": "tiny", "input": ["a"] * 2049}, 400, "input"),
        ({"model": "tiny", "input": "a", "dimensions": DIMENSIONS + 1}, 400, "dimensions"),
        ({"model": "tiny", "input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"model": "tiny", "input": "a", "dimensions": "3"}, 400, "dimensions"),
        ({"model": "tiny", "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": "tiny", "input": "a", "late_chunking": True}, 400, "late_chunking"),
        ({"model": "tiny", "input": "a", "dimension": 3}, 400, "dimension"),
        ({"model": "tiny", "input": "a", "output_dtype": "int4"}, 400, "output_dtype"),
        ({"model": "tiny", "input": "a", "output_dtype": "binary", "dimensions": 3}, 400, "dimensions"),
        ({"model": "tiny", "input": "a", "input_type": "clustering"}, 400, "input_type"),
        ({"model": "tiny", "input": "a", "prompt_name": "nonsense"}, 400, "prompt_name"),
        ({"model": "tiny"}, 400, "input"),
        ({"model": "other", "input": "a"}, 404, "model"),
        ({"model": "tiny:nonsense", "input": "a"}, 404, "model"),
        ([], 400, None),
        ("a", 400, None),
        (None, 400, None),
    ],
)
async def test_wrong_bodies_name_the_field(
    client: httpx.AsyncClient, body: Any, status: int, param: str | None
) -> None:
    """Each wrong body gets the envelope naming what to change, and the next request works."""
    assert_envelope(await client.post("/v1/embeddings", json=body), status, param)
    assert (await post(client, "a")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b'{"model": "tiny", "input": "\\ud80"}', b"\xff\xfe", b"[" * 5000])
async def test_malformed_json_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    """What is not JSON is said to be so."""
    reply = await client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert "JSON" in assert_envelope(reply, 400)["message"]


async def test_token_ids_are_refused_with_the_client_setting_to_change(client: httpx.AsyncClient) -> None:
    """The message names LangChain's own parameter."""
    error = assert_envelope(await post(client, [[1, 2]]), 400, "input")
    assert "check_embedding_ctx_length=False" in error["message"]


async def test_unknown_routes_methods_and_media_types_have_the_envelope(client: httpx.AsyncClient) -> None:
    """404, 405 and 415 speak the same language as all other errors."""
    assert_envelope(await client.get("/nothing/here"), 404)
    assert_envelope(await client.get("/v1/embeddings"), 405)
    assert_envelope(await client.get("/v1/models/none"), 404, "model")
    assert_envelope(await client.post("/v1/embeddings", content=b"a=b", headers={"content-type": "text/plain"}), 415)
    packed = {"content-type": "application/json", "content-encoding": "br"}
    assert_envelope(await client.post("/v1/embeddings", content=b"a", headers=packed), 415)


async def test_large_body_is_refused_before_it_is_read(client: httpx.AsyncClient) -> None:
    """Declared or chunked, a body over the limit gets 413."""
    assert_envelope(await post(client, "a" * (2 * 1024 * 1024)), 413)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b"a" * 65536

    reply = await client.post("/v1/embeddings", content=chunks(), headers={"content-type": "application/json"})
    assert_envelope(reply, 413)


async def test_normalize_false_is_refused(client: httpx.AsyncClient) -> None:
    """Stored vectors have unit length; raw ones are not to be had."""
    assert_envelope(await client.post("/embed", json={"inputs": "a", "normalize": False}), 400, "normalize")
    assert_envelope(await client.post("/embed", json={"inputs": 3}), 422, "inputs")


async def test_cache_control_decides_what_is_read_and_kept(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """no-store keeps nothing; no-cache computes anew and keeps; exact-only reads as usual."""
    assert (await post(client, "e", {"x-cache-control": "no-store"})).headers["x-cache"] == "miss"
    assert (await post(client, "e")).headers["x-cache"] == "miss"
    assert (await post(client, "e", {"x-cache-control": "no-cache"})).headers["x-cache"] == "miss"
    assert (await post(client, "e", {"x-cache-control": "exact-only"})).headers["x-cache"] == "local"
    assert (await post(client, "f", {"x-cache-control": "no-cache"})).headers["x-cache"] == "miss"
    assert (await post(client, "f")).headers["x-cache"] == "local"
    assert len(engine.computed) == 4
    assert_envelope(await post(client, "e", {"x-cache-control": "never"}), 400, "x-cache-control")
    assert_envelope(await post(client, "e", {"x-min-fidelity": "high"}), 400, "x-min-fidelity")


@pytest.mark.parametrize(
    ("name", "values"), [("x-cache-control", ("no-store", "exact-only")), ("x-min-fidelity", ("0.99", "0"))]
)
async def test_what_the_cache_may_do_is_said_once(
    client: httpx.AsyncClient, engine: StandInEngine, name: str, values: tuple[str, str]
) -> None:
    """Two that differ, one of them perhaps a proxy's, are refused; the last one would store what must not be."""
    twice, body = [(name, value) for value in values], {"input": "g f"}
    assert_envelope(await client.post("/v1/embeddings", json=body, headers=twice), 400, name)
    assert not engine.computed
    alike = await client.post("/v1/embeddings", json=body, headers=[twice[0], twice[0], ("via", "a"), ("via", "b")])
    assert alike.status_code == 200


async def test_concurrent_equal_requests_are_computed_once(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """Twenty clients asking for one new text cost one computation."""
    replies = await asyncio.gather(*(post(client, "g h") for _ in range(20)))
    assert all(vectors(reply)[0] == pytest.approx(true_vector("g h")) for reply in replies)
    assert len(engine.computed) == 1


async def test_disconnect_cancels_the_computation(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """When the only client that waits goes away, the engine's work is cancelled."""
    engine.gate = asyncio.Event()
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/v1/embeddings", json={"model": "tiny", "input": "h"}, timeout=0.5)
    async with asyncio.timeout(60):
        while not engine.cancelled:
            await asyncio.sleep(0.01)
    engine.gate = None
    assert (await post(client, "h")).status_code == 200


async def test_disconnect_of_one_does_not_take_the_others_answer(
    client: httpx.AsyncClient, engine: StandInEngine
) -> None:
    """A computation that another client also waits for goes on."""
    engine.gate = asyncio.Event()
    leader = asyncio.create_task(client.post("/v1/embeddings", json={"model": "tiny", "input": "h a"}, timeout=0.5))
    await asyncio.sleep(0.1)
    follower = asyncio.create_task(post(client, "h a"))
    with pytest.raises(httpx.ReadTimeout):
        await leader
    await asyncio.sleep(0.1)
    engine.gate.set()
    assert vectors(await follower)[0] == pytest.approx(true_vector("h a"))
    assert len(engine.computed) == 1


async def test_engine_refusals_become_typed_answers(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """Full, failed and late engines each have their status, type and Retry-After; then it works again."""
    engine.refusal = (429, "queue_full", {"Retry-After": "7"})
    reply = await post(client, "a c")
    assert assert_envelope(reply, 429)["type"] == "overloaded_error"
    assert reply.headers["retry-after"] == "7"
    engine.refusal = (503, "engine_failed", {})
    assert assert_envelope(await post(client, "a c"), 503)["code"] == "engine_failed"
    engine.refusal = (503, "deadline_exceeded", {})
    assert assert_envelope(await post(client, "a c"), 503)["code"] == "deadline_exceeded"
    engine.refusal = None
    engine.spoil = b"nonsense"
    assert assert_envelope(await post(client, "a c"), 503)["code"] == "engine_failed"
    engine.spoil = None
    assert vectors(await post(client, "a c"))[0] == pytest.approx(true_vector("a c"))


async def test_non_finite_vectors_are_never_served(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """NaN from the engine is an error, and is not kept."""
    from engine.protocol import encode_response

    engine.spoil = encode_response(np.full((1, DIMENSIONS), np.nan, dtype=np.float32))
    assert assert_envelope(await post(client, "a d"), 503)["code"] == "engine_failed"
    engine.spoil = None
    assert (await post(client, "a d")).headers["x-cache"] == "miss"


async def test_another_model_is_noticed_and_never_mixed(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """An engine that comes back with another fingerprint is asked anew; old entries are not served for it."""
    await post(client, "a e")
    engine.fingerprint = secrets.token_hex(16)
    reply = await post(client, "b e")
    assert reply.headers["x-dejavec-fingerprint"] == engine.fingerprint
    assert (await post(client, "a e")).headers["x-cache"] == "miss"


async def test_cached_items_are_served_while_the_engine_is_away(
    client: httpx.AsyncClient, engine: StandInEngine
) -> None:
    """Readiness says why; hits go on, misses get a typed 503 with Retry-After."""
    await post(client, "a f")
    engine.ready = False
    await until_ready(client, 503)
    assert (await post(client, "a f")).headers["x-cache"] == "local"
    reply = await post(client, "a g")
    assert assert_envelope(reply, 503)["code"] == "engine_unavailable"
    assert reply.headers["retry-after"] == "1"
    assert (await client.get("/health")).status_code == 200
    engine.ready = True
    await until_ready(client)
    assert (await post(client, "a g")).status_code == 200


async def test_long_requests_take_the_bulk_lane(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """Many misses queue behind interactive ones; a request that is mostly hits stays interactive."""
    texts = [" ".join(pair) for pair in zip("abcdefgh" * 3, "hgfedcba" * 3, strict=True)]
    many = [f"{text} {'x ' * position}" for position, text in enumerate(texts[:12])]
    many += [f"{'c ' * (position + 1)}" for position in range(12)]
    await post(client, many)
    await post(client, [*many, "one"])
    assert engine.lanes == [Lane.BULK, Lane.INTERACTIVE]


async def test_request_id_is_echoed_when_sane(client: httpx.AsyncClient) -> None:
    """A client's own id comes back; one that could break a log line does not."""
    assert (await post(client, "a", {"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
    assert (await post(client, "a", {"x-request-id": "a b<script>"})).headers["x-request-id"].startswith("req-")


async def test_models_info_and_metrics(client: httpx.AsyncClient) -> None:
    """The model list, the fingerprint, and the names that alerts rely on."""
    listed = (await client.get("/v1/models")).json()
    assert [entry["id"] for entry in listed["data"]] == ["tiny"]
    info = (await client.get("/info")).json()
    assert info["dimensions"] == DIMENSIONS
    assert info["cache"]["redis"] == "ok"
    await post(client, "a")
    text = (await client.get("/metrics")).text
    for name in (
        'embeddings_requests_total{status="200"}',
        "embeddings_latency_seconds_bucket",
        "cache_requests_total",
        "cache_hits_total",
        'dejavec_cache_hits_total{model="default",tier="miss"}',
        "process_resident_memory_bytes",
    ):
        assert name in text


async def test_openapi_document_names_the_embedding_routes(client: httpx.AsyncClient) -> None:
    """/docs shows the routes that matter, with their error shape."""
    document = (await client.get("/openapi.json")).json()
    assert {"/v1/embeddings", "/embed", "/health", "/ready"} <= set(document["paths"])
    assert "ErrorReply" in json.dumps(document["paths"]["/v1/embeddings"])
    assert (await client.get("/docs")).status_code == 200


async def test_scripts_of_an_allowed_origin_may_read_every_header(engine: StandInEngine, redis: RunningRedis) -> None:
    """CORS exposes all that a reply says of its vectors, semantic hits included, to configured origins only."""
    lookup = Lookup(np.zeros(1, np.float32), Policy(SemanticMode.ON), choice=Choice(0, 0.9, 0.97, 0.01, 0.96), tau=0.92)
    everything = EmbedResult(
        engine.info, [b""], ["semantic"], truncated=1, semantic_hits=[lookup], stage_s={"local": 0.1}
    )
    sent = {name.decode() for name, _ in result_headers(everything)} | {"x-request-id", "retry-after"}
    sent |= {"x-dimensions", "x-ignored-fields"}
    origin = "https://app.example"
    async with running_gateway(engine.url, redis_url=redis.url, cors_origins=[origin]) as client:
        await until_ready(client)
        reply = await post(client, "a", headers={"origin": origin})
        exposed = {name.strip().lower() for name in reply.headers["access-control-expose-headers"].split(",")}
        assert exposed == sent
        assert "access-control-allow-origin" not in (await post(client, "a", headers={"origin": "https://x"})).headers
