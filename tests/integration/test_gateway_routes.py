"""The routes by which people call the gateway: thin shapes over one service, with its keys, limits and cache."""

import asyncio
import gzip
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from common.content_coding import codings
from gateway.paths import REFUSED
from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import DIMENSIONS, StandInEngine, tiny_tokenizer, vector_of

ALIAS = "text-embedding-3-small"
JSON = {"content-type": "application/json"}
OPENAI_PATHS = [
    "/v1/embeddings",
    "/embeddings",
    "/v1/embeddings/",
    "//v1/embeddings",
    "/v1//embeddings//",
    "/openai/v1/embeddings",
    "/openai/v1/embeddings?api-version=preview",
    "/openai/deployments/tiny/embeddings?api-version=2024-10-21",
    "/openai/deployments/sentence-transformers/tiny/embeddings",
    "/openai/deployments/sentence-transformers%2Ftiny/embeddings",
    f"/openai/deployments/{ALIAS}/embeddings",
]
EMBED_PATHS = [
    "/embed",
    "/embed/",
    "/",
    "",
    "/pipeline/feature-extraction",
    "/pipeline/feature-extraction/sentence-transformers/tiny",
    "/models/sentence-transformers/tiny",
    "/models/tiny/pipeline/feature-extraction",
]


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


@pytest.fixture
async def client(engine: StandInEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway(engine.url, model_aliases={ALIAS: "tiny"}, max_body_mb=1) as client:
        await until_ready(client)
        yield client


def true_vector(text: str) -> Any:
    return pytest.approx([float(x) for x in vector_of(tiny_tokenizer().encode(text).ids)])


async def send(client: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
    """A request with its path as it is: the client would take dots and slashes out."""
    request = client.build_request(method, "/", **more)
    request.extensions["target"] = (path or "/").encode()
    return await client.send(request)


async def post(client: httpx.AsyncClient, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    reply = await send(client, "POST", path, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("path", OPENAI_PATHS)
async def test_openai_and_azure(client: httpx.AsyncClient, path: str) -> None:
    """The same reply by every path; `model` may be missing, and Azure's deployment stands in its place."""
    body = {"input": "a b"} | ({"model": "nonsense"} if "deployments" in path else {})
    reply = await post(client, path, body, {"api-key": "any"})
    assert reply["data"][0]["embedding"] == true_vector("a b")
    assert (reply["model"], reply["usage"]["total_tokens"]) == ("tiny", 4)


@pytest.mark.parametrize("path", EMBED_PATHS)
async def test_text_embeddings_inference_and_hugging_face(client: httpx.AsyncClient, path: str) -> None:
    """A nested list by every path, with the parameters that InferenceClient sends."""
    body = {"inputs": ["a", "b"], "normalize": True, "truncate": True, "truncation_direction": "Right"}
    assert await post(client, path, body) == [true_vector("a"), true_vector("b")]
    assert await post(client, path, {"inputs": "a", "dimensions": DIMENSIONS}) == [true_vector("a")]


@pytest.mark.parametrize("path", ["/openai/deployments/other/embeddings", "/models/other", "/models/evil/../tiny"])
async def test_a_model_in_the_path_is_checked(client: httpx.AsyncClient, path: str) -> None:
    """It is a name like any other."""
    reply = await send(client, "POST", path, json={"input": "a", "inputs": "a"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_all_routes_share_one_cache(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """One text is computed once, whatever the shape it is asked in."""
    for path in OPENAI_PATHS:
        await post(client, path, {"input": "a c"})
    for path in EMBED_PATHS:
        await post(client, path, {"inputs": "a c"})
    await post(client, "/api/embed", {"model": "tiny", "input": "a c"})
    await post(client, "/api/embeddings", {"model": "tiny", "prompt": "a c"})
    assert len(engine.computed) == 1


async def test_names_mean_the_same_on_every_route(client: httpx.AsyncClient) -> None:
    """What is listed can be fetched and asked; so can the hub id and the forms of other software."""
    listed = [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
    assert listed == ["tiny", ALIAS]
    for name in [*listed, "sentence-transformers/tiny", "openai/tiny", f"openai/{ALIAS}", f"{ALIAS}:latest"]:
        for path in ("/v1/models", "/models", "/openai/v1/models"):
            fetched = await client.get(f"{path}/{name}")
            assert fetched.json() == {"id": name, "object": "model", "created": 0, "owned_by": "dejavec"}
        reply = await post(client, "/v1/embeddings", {"model": name + ":query" * (":" not in name), "input": "a"})
        assert reply["data"][0]["embedding"] == true_vector("a" if ":" in name else "query : a")
        assert (await post(client, "/api/embed", {"model": name, "input": "a"}))["embeddings"] == [true_vector("a")]
    for name in ("evil%2F..%2Ftiny", "other", "tiny:nonsense"):
        assert (await client.get(f"/v1/models/{name}")).status_code == 404


async def test_ollama(client: httpx.AsyncClient) -> None:
    """Vectors, an empty input as where a model is loaded, what there is, and errors in its shape."""
    body = {
        "model": "tiny:latest",
        "input": ["a", "b"],
        "truncate": True,
        "keep_alive": "5m",
        "options": {"num_ctx": 9},
    }
    reply = await post(client, "/api/embed", body)
    assert reply["embeddings"] == [true_vector("a"), true_vector("b")]
    assert (reply["model"], reply["prompt_eval_count"]) == ("tiny:latest", 6)
    for empty in ({"model": "tiny"}, {"model": "tiny", "input": ""}, {"model": "tiny", "input": []}):
        assert await post(client, "/api/embed", empty) == {"model": "tiny", "embeddings": []}
    assert await post(client, "/api/embeddings", {"model": "tiny", "prompt": "a"}) == {"embedding": true_vector("a")}
    assert await post(client, "/api/embeddings", {"model": "tiny", "prompt": ""}) == {"embedding": []}
    models = (await client.get("/api/tags")).json()["models"]
    assert [one["name"] for one in models] == ["tiny:latest", f"{ALIAS}:latest"]
    assert (await client.get("/api/ps")).json()["models"][0]["model"] == "tiny:latest"
    assert "version" in (await client.get("/api/version")).json()
    assert (await post(client, "/api/show", {"model": "tiny"}))["capabilities"] == ["embedding"]
    for path, wrong, status in (
        ("/api/embed", {"model": "other", "input": "a"}, 404),
        ("/api/embed", {"model": "tiny", "input": 3}, 400),
        ("/api/embed", {"model": "tiny", "input": ["a", ""]}, 400),
        ("/api/show", {"model": "other"}, 404),
        ("/api/generate", {"model": "tiny"}, 404),
        ("/api/nothing", {}, 404),
    ):
        refused = await client.post(path, json=wrong)
        assert (refused.status_code, type(refused.json()["error"])) == (status, str)


async def test_tokenize_and_decode(client: httpx.AsyncClient) -> None:
    """Tokens with their places in the text, of the whole of it, and back."""
    tokens = await post(client, "/tokenize", {"inputs": "a  b"})
    assert tokens == [
        [
            {"id": 1, "text": "[CLS]", "special": True, "start": None, "stop": None},
            {"id": 100, "text": "a", "special": False, "start": 0, "stop": 1},
            {"id": 101, "text": "b", "special": False, "start": 3, "stop": 4},
            {"id": 2, "text": "[SEP]", "special": True, "start": None, "stop": None},
        ]
    ]
    plain = await post(client, "/tokenize", {"inputs": ["a " * 40, "b"], "add_special_tokens": False})
    assert [len(one) for one in plain] == [40, 1]
    prompted = await post(client, "/tokenize", {"inputs": "a", "prompt_name": "query"})
    assert [one["text"] for one in prompted[0]] == ["[CLS]", "query", ":", "a", "[SEP]"]
    assert await post(client, "/decode", {"ids": [100, 101]}) == ["a b"]
    assert await post(client, "/decode", {"ids": [[100], [101, 102]]}) == ["a", "b c"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {"inputs": "a" * 65_537}, 400, "inputs"),
        ("/tokenize", {"inputs": [1]}, 422, "inputs"),
        ("/tokenize", {}, 422, "inputs"),
        ("/tokenize", {"inputs": "a", "prompt_name": "nonsense"}, 400, "prompt_name"),
        ("/decode", {"ids": [[1] * 40_000, [1] * 40_000]}, 400, "ids"),
        ("/decode", {"ids": [-1]}, 422, None),
        ("/decode", {"ids": [2**32]}, 422, None),
    ],
)
async def test_tokenize_and_decode_are_bounded(
    client: httpx.AsyncClient, path: str, body: Any, status: int, param: str | None
) -> None:
    """A token takes many times its text in the reply."""
    reply = await client.post(path, json=body)
    assert reply.status_code == status, reply.text
    assert param is None or reply.json()["error"]["param"] == param


async def test_tokenize_follows_the_engine(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """The tokenizer is read when it is first asked for, and again for another model."""
    await post(client, "/tokenize", {"inputs": "a"})
    engine.fingerprint = secrets.token_hex(16)
    await post(client, "/v1/embeddings", {"input": "f g"})
    assert len((await post(client, "/tokenize", {"inputs": "a"}))[0]) == 3


async def test_info_has_what_the_clients_of_text_embeddings_inference_read(client: httpx.AsyncClient) -> None:
    """Beside our own fields."""
    info = (await client.get("/info")).json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == ("tiny", 16, 2048)
    assert info["model_type"] == {"embedding": {}}
    assert (info["auto_truncate"], info["dimensions"]) == (True, DIMENSIONS)


@pytest.mark.parametrize("path", sorted(REFUSED))
async def test_what_an_embedding_model_cannot_do_says_so(client: httpx.AsyncClient, path: str) -> None:
    """The reason, rather than a missing route."""
    reply = await client.post(path, json={"anything": 1})
    assert reply.status_code == 404
    assert REFUSED[path] in reply.text


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/info", "/v1/models", "/v1/models/tiny", "/metrics", "/", "/api/tags", "/docs"]
)
async def test_head_is_get_without_a_body(client: httpx.AsyncClient, path: str) -> None:
    """Clients and load balancers look whether a server is there."""
    reply = await client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-type"] == (await client.get(path)).headers["content-type"]
    assert (await client.head("/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "near"),
    [
        ("POST", "/v1/embedding", "/v1/embeddings"),
        ("POST", "/v2/embeddings", "/v1/embeddings"),
        ("POST", "/v1/v1/embeddings", "/v1/embeddings"),
        ("GET", "/helth", "/health"),
        ("GET", "/api/tag", "/api/tags"),
        ("GET", "/admin/stat", "/admin/stats"),
    ],
)
async def test_a_404_names_the_nearest_route(client: httpx.AsyncClient, method: str, path: str, near: str) -> None:
    """A slip of the hand, or one prefix too many."""
    async with running_gateway(str(client.base_url), admin_token="operator-of-these-tests") as other:
        headers = {"authorization": "Bearer operator-of-these-tests"} if "admin" in path else {}
        reply = await other.request(method, path, headers=headers)
        assert reply.status_code == 404
        assert f"Did you mean {near}?" in reply.text


async def test_a_404_without_a_near_route_and_of_any_length(client: httpx.AsyncClient) -> None:
    """Nothing is suggested, and not all of it is repeated."""
    for path in ("/favicon.ico", "/" + "x" * 60_000, "/" + "/" * 60_000, "/openai/deployments/" + "a/" * 20_000):
        reply = await send(client, "POST", path, json={})
        assert reply.status_code == 404
        assert "Did you mean" not in reply.text
        assert len(reply.text) < 1000


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/embeddings", "POST"), ("DELETE", "/", "GET, HEAD, POST"), ("POST", "/health", "GET, HEAD"),
     ("PUT", "/v1/models/tiny", "GET, HEAD"), ("GET", "/api/embed", "POST"), ("GET", "/embed/", "POST")],
)  # fmt: skip
async def test_a_405_says_what_is_allowed(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    """In the header, as HTTP requires, and in words."""
    reply = await client.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert f"It takes {allowed}." in reply.text


@pytest.mark.parametrize("path", ["//admin/stats", "/admin//stats", "/admin/stats/", "//metrics", "/metrics/"])
async def test_operators_routes_have_one_path(client: httpx.AsyncClient, path: str) -> None:
    """What a proxy keeps from the outside by its path is not reached by another spelling, right token or not."""
    assert (await send(client, "GET", path)).status_code == (403 if path.startswith("/admin") else 404)


async def test_ignored_fields_are_named_and_counted(client: httpx.AsyncClient) -> None:
    """What frameworks always send is ignored; of an unknown field the reply says so."""
    body = {"input": "a", "input_type": None, "timeout": 600, "drop_params": True, "stream": False, "x_made_up": 1}
    reply = await client.post("/v1/embeddings", json=body)
    assert (reply.status_code, reply.headers["x-ignored-fields"]) == (200, "x_made_up")
    metrics = (await client.get("/metrics")).text
    assert 'dejavec_ignored_fields_total{field="drop_params"}' in metrics
    assert "x_made_up" not in metrics


async def test_strict_fields_refuse_them(engine: StandInEngine) -> None:
    """As OpenAI does, on every route."""
    async with running_gateway(engine.url, strict_fields=True) as client:
        await until_ready(client)
        for path, body in (
            ("/v1/embeddings", {"input": "a"}),
            ("/embed", {"inputs": "a"}),
            ("/tokenize", {"inputs": "a"}),
            ("/api/embed", {"input": "a"}),
        ):
            await post(client, path, body)
            for value in (1, None):
                assert (await client.post(path, json=body | {"made_up": value})).status_code == 400


async def test_output_types(client: httpx.AsyncClient) -> None:
    """int8 as numbers and as base64, bits, on OpenAI's route as on the others; from the same cached vector."""
    floats = np.array((await post(client, "/v1/embeddings", {"input": "a"}))["data"][0]["embedding"])
    ints = (await post(client, "/v1/embeddings", {"input": "a", "output_dtype": "int8"}))["data"][0]["embedding"]
    assert all(isinstance(one, int) for one in ints)
    unit = np.array(ints) / np.linalg.norm(ints)
    assert float(unit @ floats) > 0.999
    assert await post(client, "/embed", {"inputs": "a", "output_dtype": "int8"}) == [ints]
    bits = await post(client, "/api/embed", {"model": "tiny", "input": "a", "output_dtype": "ubinary"})
    assert bits["embeddings"] == [np.packbits(floats > 0).tolist()]
    assert isinstance((await post(client, "/embed", {"inputs": "a", "encoding_format": "base64"}))[0], str)


async def test_untrained_dimensions_are_said_or_refused(client: httpx.AsyncClient, engine: StandInEngine) -> None:
    """On each route that takes them."""
    asked = (("/v1/embeddings", {"input": "a"}), ("/embed", {"inputs": "a"}), ("/api/embed", {"input": "a"}))
    async with running_gateway(engine.url, untrained_dimensions="refuse") as strict:
        await until_ready(strict)
        for path, body in asked:
            reply = await client.post(path, json=body | {"dimensions": 4})
            assert reply.headers["x-dimensions"] == "truncated, training unknown"
            assert "x-dimensions" not in (await client.post(path, json=body)).headers
            assert (await strict.post(path, json=body | {"dimensions": 4})).status_code == 400
            assert (await strict.post(path, json=body | {"dimensions": DIMENSIONS})).status_code == 200


@pytest.mark.parametrize("text", ["a", "a " * 300_000])
async def test_compressed_bodies(client: httpx.AsyncClient, text: str) -> None:
    """Read within the limit on what they expand to, small and in steps; also with a byte order mark."""
    headers = JSON | {"content-encoding": "gzip"}
    content = b"\xef\xbb\xbf" + json.dumps({"input": text[:199_999]}).encode()
    reply = await client.post("/v1/embeddings", content=gzip.compress(content), headers=headers)
    assert reply.status_code == 200
    bomb = gzip.compress(json.dumps({"input": "a" * (2 * 1024 * 1024)}).encode())
    assert len(bomb) < 10_000
    for content, status in ((bomb, 413), (b"nonsense", 400), (gzip.compress(b"{}")[:-3], 400)):
        assert (await client.post("/v1/embeddings", content=content, headers=headers)).status_code == status
    unknown = await client.post("/v1/embeddings", content=b"x", headers=JSON | {"content-encoding": "br"})
    assert (unknown.status_code, unknown.headers["accept-encoding"]) == (415, ", ".join(codings()))
    many = await client.post("/v1/embeddings", content=b"x", headers=JSON | {"content-encoding": "gzip, gzip"})
    assert many.status_code == 415


async def test_what_a_body_expands_to_is_held(engine: StandInEngine) -> None:
    """A worker's share for bodies counts expanded bytes, so that a few small bombs do not take its memory."""
    async with running_gateway(engine.url, max_body_mb=2, max_bodies_mb=4) as client:
        await until_ready(client)
        engine.gate = asyncio.Event()
        body = gzip.compress(json.dumps({"input": "h " * 50_000, "metadata": "m" * 1_700_000}).encode())
        headers = JSON | {"content-encoding": "gzip"}
        tasks = [asyncio.create_task(client.post("/v1/embeddings", content=body, headers=headers)) for _ in range(8)]
        async with asyncio.timeout(60):
            while not any(task.done() for task in tasks):
                await asyncio.sleep(0.01)
        engine.gate.set()
        statuses = {(await task).status_code for task in tasks}
    assert statuses == {200, 429}


@pytest.mark.parametrize("coding", codings())
async def test_large_replies_are_compressed_when_asked_for(client: httpx.AsyncClient, coding: str) -> None:
    """The client's own choice; a small reply, and one that nobody wants compressed, stay as they are."""
    texts = [f"w{number}" for number in range(400)] * 5
    body = {"input": texts, "model": "tiny"}
    plain = await client.post("/v1/embeddings", json=body, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    async with client.stream("POST", "/v1/embeddings", json=body, headers={"accept-encoding": coding}) as packed:
        assert packed.headers["content-encoding"] == coding
        raw = b"".join([part async for part in packed.aiter_raw()])
    assert len(raw) < len(plain.content) / 1.2
    if coding == "gzip":
        assert gzip.decompress(raw) == plain.content
    small = await client.post("/v1/embeddings", json={"input": "a"}, headers={"accept-encoding": coding})
    assert "content-encoding" not in small.headers


async def test_half_a_character_costs_no_other_text(client: httpx.AsyncClient) -> None:
    """One text of a batch that was cut off inside an emoji becomes U+FFFD there."""
    content = b'{"input":["a","b\\ud83d","c"]}'
    reply = await client.post("/v1/embeddings", content=content, headers=JSON)
    assert [item["embedding"] for item in reply.json()["data"]][::2] == [true_vector("a"), true_vector("c")]


KEYS = {"key-of-team-alpha": {"namespace": "alpha"}, "key-of-team-beta-": {"namespace": "beta"}}
ALL_POSTS = [
    ("/v1/embeddings", {"input": "a"}),
    ("/openai/deployments/tiny/embeddings", {"input": "a"}),
    ("/", {"inputs": "a"}),
    ("/models/tiny", {"inputs": "a"}),
    ("/tokenize", {"inputs": "a"}),
    ("/decode", {"ids": [100]}),
    ("/api/embed", {"input": "a"}),
    ("/api/embeddings", {"prompt": "a"}),
    ("/api/show", {}),
    ("//embed//", {"inputs": "a"}),
]


@pytest.mark.parametrize(("path", "body"), ALL_POSTS)
async def test_every_route_asks_for_a_key(engine: StandInEngine, path: str, body: dict[str, Any]) -> None:
    """In any of three headers; none, a wrong one, and two different ones are 401."""
    async with running_gateway(engine.url, api_keys=KEYS) as client:
        await until_ready(client)
        key = "key-of-team-alpha"
        right: list[Any] = [{"authorization": f"Bearer {key}"}, {"api-key": key}, {"x-api-key": key}]
        right.append({"authorization": f"Bearer {key}", "api-key": key, "x-api-key": key})
        for headers in right:
            assert (await send(client, "POST", path, json=body, headers=headers)).status_code == 200
        wrong: list[Any] = [{}, {"api-key": "key-of-nobody-here"}, {"authorization": "Basic eDp5"}]
        wrong.append({"authorization": f"Bearer {key}", "x-api-key": "key-of-team-beta-"})
        wrong.append([("api-key", key), ("api-key", "key-of-team-beta-")])
        for headers in wrong:
            reply = await send(client, "POST", path, json=body, headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert isinstance(reply.json()["error"], str if path.startswith("/api") else dict)


def key_file(path: Path, keys: dict[str, str]) -> None:
    path.write_text("".join(f'[api_keys.{key}]\nnamespace = "{name}"\n' for key, name in keys.items()))


async def test_keys_change_without_a_restart(
    engine: StandInEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new key of a new namespace is let in, the old one is not, and the operator sees both changes."""
    file = tmp_path / "dejavec.toml"
    monkeypatch.setenv("DEJAVEC_CONFIG", str(file))
    key_file(file, {"key-of-team-alpha": "alpha"})
    token = {"authorization": "Bearer operator-of-these-tests"}
    async with running_gateway(engine.url, admin_token="operator-of-these-tests") as client:
        await until_ready(client)

        async def status(key: str) -> int:
            return (await client.post("/embed", json={"inputs": "a"}, headers={"api-key": key})).status_code

        assert (await status("key-of-team-alpha"), await status("key-of-team-gamma")) == (200, 401)
        key_file(file, {"key-of-team-gamma": "gamma", "key-of-team-delta": "delta"})
        async with asyncio.timeout(60):
            while await status("key-of-team-alpha") == 200:
                await asyncio.sleep(0.05)
        assert (await status("key-of-team-gamma"), await status("key-of-team-delta")) == (200, 200)
        assert (await client.get("/admin/stats", headers=token)).json()["namespaces"] == ["delta", "gamma"]
        assert set((await client.get("/admin/thresholds", headers=token)).json()["namespaces"]) == {"delta", "gamma"}
