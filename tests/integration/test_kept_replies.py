"""A kept reply is what reading the request would have given, is counted as that, and is gone when that would change.

`served` counts the requests that were read; everything is asked over real HTTP, with a real Redis.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gateway.app
from gateway.embed_request import EmbedRequest, EmbedResult
from gateway.kept_replies import MAX_BODY_BYTES, KeptReplies
from gateway.models import Models
from gateway.service import EmbeddingService
from gateway.settings import ApiKey, GatewaySettings
from gateway.tenants import Tenants
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import DIMENSIONS, StandInEngine

TOKEN = "operator-of-these-tests"
OPERATOR = {"authorization": f"Bearer {TOKEN}"}
ONE, TWO = "first-key-of-these-tests", "second-key-of-these-tests"
COUNTED = re.compile(
    r"^((?:embeddings_requests|cache_\w+|dejavec_cache_hits|dejavec_tokens|dejavec_truncated|dejavec_ignored_fields)"
    r"_total(?:\{.*\})?|embeddings_latency_seconds_count) (\S+)$",
    re.MULTILINE,
)


@dataclass
class Inside:
    """The parts of a running gateway that tests change, and the requests that it has read."""

    models: Models | None = None
    tenants: Tenants | None = None
    read: list[EmbedRequest] = field(default_factory=list)


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Inside:
    inside = Inside()

    class Kept(KeptReplies):
        def __init__(self, local: Any, epochs: Any, models: Models, secret: bytes) -> None:
            super().__init__(local, epochs, models, secret)
            inside.models = models

    class KnownTenants(Tenants):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            inside.tenants = self

    embed = EmbeddingService.embed

    async def counted(service: EmbeddingService, request: EmbedRequest) -> EmbedResult:
        inside.read.append(request)
        return await embed(service, request)

    monkeypatch.setattr(gateway.app, "KeptReplies", Kept)
    monkeypatch.setattr(gateway.app, "Tenants", KnownTenants)
    monkeypatch.setattr(EmbeddingService, "embed", counted)
    return inside


@asynccontextmanager
async def asked(engine: StandInEngine, redis: RunningRedis | None, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    url = {"redis_url": redis.url, "redis_timeout_ms": 10_000} if redis is not None else {}
    chosen = {"admin_token": TOKEN, "local_cache_ttl_seconds": 3600, **url, **more}
    async with running_gateway(engine.url, **chosen) as client:
        await until_ready(client)
        yield client


async def post(client: httpx.AsyncClient, body: dict[str, Any] | bytes, key: str = ONE, **headers: str) -> Any:
    """The answer; a busy machine's 503, for an engine that was not heard of in time, is asked again as it says."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = {"content-type": "application/json", "authorization": f"Bearer {key}", **headers}
    for _ in range(30):
        reply = await client.post("/v1/embeddings", content=content, headers=sent)
        if reply.status_code != 503:
            break
        await asyncio.sleep(float(reply.headers["retry-after"]))
    return reply


async def until_kept(client: httpx.AsyncClient, inside: Inside, body: dict[str, Any] | bytes, **more: str) -> Any:
    """The first reply that came without the request being read."""
    for _ in range(5):
        before = len(inside.read)
        reply = await post(client, body, **more)
        assert reply.status_code == 200, reply.text
        if len(inside.read) == before:
            return reply
    raise AssertionError("the reply was not kept")


def shown(reply: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All of a reply but its own id and time."""
    headers = [pair for pair in reply.headers.multi_items() if pair[0] not in ("x-request-id", "date")]
    return reply.status_code, headers, reply.content


async def counts(client: httpx.AsyncClient) -> dict[str, float]:
    return {name: float(value) for name, value in COUNTED.findall((await client.get("/metrics")).text)}


async def grown(client: httpx.AsyncClient, before: dict[str, float]) -> dict[str, float]:
    return {
        name: value - before.get(name, 0)
        for name, value in (await counts(client)).items()
        if value != before.get(name, 0)
    }


WORDS = "a b c d e f one two three".split()
bodies = st.fixed_dictionaries(
    {
        "input": st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join)
        | st.text(min_size=1, max_size=9)
    },
    optional={
        "model": st.sampled_from(["tiny", "tiny:query", "openai/tiny", "sentence-transformers/tiny"]),
        "encoding_format": st.sampled_from(["float", "base64", None]),
        "dimensions": st.integers(1, DIMENSIONS),
        "output_dtype": st.sampled_from(["float", "int8", "binary"]),
        "prompt_name": st.sampled_from(["query", "document"]),
        "truncate": st.booleans(),
        "user": st.just("u"),
        "not_ours": st.just(1),
        "temperature": st.just(0),
    },
)
heads = st.fixed_dictionaries(
    {},
    optional={
        "x-cache-control": st.sampled_from(["exact-only", "no-cache", "no-store", "wrong"]),
        "x-min-fidelity": st.sampled_from(["0.9", "7"]),
        "x-stainless-lang": st.just("python"),
        "accept-encoding": st.sampled_from(["gzip", "identity;q=0, *;q=0", "identity"]),
    },
)


async def test_replies_are_the_same_as_read_ones(engine: StandInEngine, redis: RunningRedis, inside: Inside) -> None:
    """Over fields, formats, names, prompts and headers: bytes, headers, counters, status, also of refusals."""
    kept = 0
    async with asked(engine, redis) as client, asked(engine, redis) as other:

        async def check(body: dict[str, Any], headers: dict[str, str], is_list: bool) -> None:
            nonlocal kept
            content = orjson.dumps(body | {"input": [body["input"]]} if is_list else body)
            await post(client, content)
            await post(other, content)
            before, read = await counts(client), len(inside.read)
            await post(client, content, **headers)
            once = await grown(client, before)
            first = await post(other, content + b" ", **headers)  # another request, which is read
            before, read = await counts(client), len(inside.read)
            reply = await post(client, content, **headers)
            kept += len(inside.read) == read
            again = await grown(client, before)
            assert once == again
            cached = headers.get("x-cache-control") not in ("no-cache", "no-store")
            assert shown(reply) == shown(first) if cached else reply.content == first.content

        loop = asyncio.get_running_loop()

        @settings(
            max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(body=bodies, headers=heads, is_list=st.booleans())
        def run(body: dict[str, Any], headers: dict[str, str], is_list: bool) -> None:
            asyncio.run_coroutine_threadsafe(check(body, headers, is_list), loop).result(60)

        await asyncio.to_thread(run)
    assert kept > 10


async def test_a_purge_ends_kept_replies(engine: StandInEngine, redis: RunningRedis, inside: Inside) -> None:
    """Of its namespace, or of all; another namespace's stay. The next reply is computed."""
    keys = {ONE: {"namespace": "one"}, TWO: {"namespace": "two"}}
    body = {"model": "tiny", "input": "a b", "encoding_format": "base64"}
    async with asked(engine, redis, api_keys=keys) as client:
        for purge, others in (({"namespace": "one"}, "local"), ({"all": True}, "miss")):
            for key in (ONE, TWO):
                await until_kept(client, inside, body, key=key)
            assert (await client.post("/admin/purge", json=purge, headers=OPERATOR)).status_code == 200
            assert (await post(client, body)).headers["x-cache"] == "miss"
            assert (await post(client, body, key=TWO)).headers["x-cache"] == others


async def test_without_redis_replies_are_kept_and_purged(engine: StandInEngine, inside: Inside) -> None:
    """By the process's own epochs."""
    async with asked(engine, None) as client:
        await until_kept(client, inside, {"input": "a b"})
        assert (await client.post("/admin/purge", json={"all": True}, headers=OPERATOR)).status_code == 200
        assert (await post(client, {"input": "a b"})).headers["x-cache"] == "miss"


async def test_limits_and_usage_count_kept_replies(engine: StandInEngine, redis: RunningRedis, inside: Inside) -> None:
    """A key's requests and tokens run out at the same request as if each were read; usage has them all."""
    one, two = (f"key-{secrets.token_hex(12)}" for _ in range(2))  # limits and usage are in the Redis of all tests
    keys = {one: {"namespace": "one", "requests_per_minute": 3}, two: {"namespace": "two", "tokens_per_day": 16}}
    body = {"model": "tiny", "input": "a b"}  # four tokens
    async with asked(engine, redis, api_keys=keys) as client:
        for key, answered in ((one, 3), (two, 4)):
            statuses = [(await post(client, body, key=key)).status_code for _ in range(answered + 2)]
            assert statuses == [200] * answered + [429] * 2
            used = (await client.get("/v1/usage?days=1", headers={"authorization": f"Bearer {key}"})).json()["today"]
            assert (used["requests"], used["tokens"]) == (answered, 4 * answered)
        assert 0 < len(inside.read) < 7, "some were read, and some were not"


async def test_keys_that_change_are_gone_by_at_once(engine: StandInEngine, redis: RunningRedis, inside: Inside) -> None:
    """A revoked key is refused, and one that moved to another namespace finds nothing of the old one's."""
    body = {"model": "tiny", "input": "a b"}
    keys = {ONE: ApiKey(namespace="one"), TWO: ApiKey(namespace="two")}
    async with asked(engine, redis, api_keys={key: rule.model_dump() for key, rule in keys.items()}) as client:
        for key in keys:
            await until_kept(client, inside, body, key=key)
        assert inside.tenants is not None
        inside.tenants.replace({TWO: ApiKey(namespace="three")})
        assert (await post(client, body)).status_code == 401
        assert (await post(client, body, key=TWO)).headers["x-cache"] == "miss"


async def test_another_model_ends_kept_replies(engine: StandInEngine, redis: RunningRedis, inside: Inside) -> None:
    """The engine's model has changed: its fingerprint is in the next reply."""
    body = {"model": "tiny", "input": "a b"}
    async with asked(engine, redis) as client:
        before = await until_kept(client, inside, body)
        engine.fingerprint = secrets.token_hex(16)
        await post(client, {"input": "c d"}, **{"x-cache-control": "no-cache"})  # tells the gateway
        reply = await post(client, body)
        assert (reply.headers["x-cache"], reply.headers["x-dejavec-fingerprint"]) == ("miss", engine.fingerprint)
        assert before.headers["x-dejavec-fingerprint"] != engine.fingerprint


async def test_names_that_change_are_gone_by_at_once(
    engine: StandInEngine, redis: RunningRedis, inside: Inside
) -> None:
    """An alias that means another model, another prompt, or nothing any more."""
    async with StandInEngine(fingerprint=secrets.token_hex(16), model="small").running() as small:
        engines: dict[str, Any] = {"large": {"urls": [engine.url]}, "other": {"urls": [small.url]}}
        chosen = {"engines": engines, "key_secret": "5e" * 32, "redis_url": redis.url, "model_aliases": {"m": "large"}}
        async with running_gateway(None, **chosen) as client:
            await until_ready(client)
            assert inside.models is not None
            body = {"model": "m", "input": "a b"}
            first = await until_kept(client, inside, body)
            assert first.headers["x-dejavec-fingerprint"] == engine.fingerprint
            inside.models.adopt(GatewaySettings(**{**chosen, "model_aliases": {"m": "other"}}))
            second = await post(client, body)
            assert second.headers["x-dejavec-fingerprint"] == small.fingerprint
            await until_kept(client, inside, body)
            inside.models.adopt(GatewaySettings(**{**chosen, "model_aliases": {}}))
            assert (await post(client, body)).status_code == 404


async def test_a_text_computed_anew_has_no_older_reply(
    engine: StandInEngine, redis: RunningRedis, inside: Inside
) -> None:
    """`no-cache` computes and keeps: the next reply is made of what it kept."""
    body = {"model": "tiny", "input": "a b"}
    async with asked(engine, redis) as client:
        await until_kept(client, inside, body)
        await post(client, body, **{"x-cache-control": "no-cache"})
        read = len(inside.read)
        assert (await post(client, body)).headers["x-cache"] == "local"
        assert len(inside.read) == read + 1


@pytest.mark.parametrize(
    ("body", "settings_of"),
    [
        ({"input": ["a b", "c"]}, {}),
        ({"input": "a b", "not_ours": 1}, {}),
        ({"input": "a b", "user": "u" * MAX_BODY_BYTES}, {}),
        ({"input": "a b"}, {"local_cache_mb": 0}),
    ],
    ids=["two texts", "an unknown field", "a large body", "no L0"],
)
async def test_what_is_not_kept(
    engine: StandInEngine, redis: RunningRedis, inside: Inside, body: dict[str, Any], settings_of: dict[str, Any]
) -> None:
    """Such requests are read each time, and their replies are the same."""
    async with asked(engine, redis, **settings_of) as client:
        await until_stored(client, body)
        replies = [await post(client, body) for _ in range(3)]
        assert len({reply.content for reply in replies}) == 1
        assert len(inside.read) >= 4


async def until_stored(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Ask until the answer is no miss."""
    async with asyncio.timeout(60):
        while "miss" in (await post(client, body)).headers["x-cache-items"]:
            await asyncio.sleep(0.02)
