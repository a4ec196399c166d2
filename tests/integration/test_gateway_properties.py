"""Whatever a request mixes, it is answered as an uncached one-by-one call would be: bit for bit, token for token.

Two gateways share a real Redis, one with L0 and one without; a third has no cache at all and is asked one text at a
time. hypothesis chooses the requests and shrinks what fails.
"""

import base64
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.background import in_background
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import DIMENSIONS, StandInEngine

WORDS = "a b c d e f g h one two three query : x".split()
MODELS = ["tiny", "tiny:query", "tiny:document"]
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

few_words = st.lists(st.sampled_from(WORDS[:4]), min_size=1, max_size=3).map(" ".join)  # often the same: hits
many_words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)  # often over the limit
any_text = st.text(min_size=1, max_size=30)
texts = st.lists(few_words | many_words | any_text, min_size=1, max_size=12)


@dataclass
class Answer:
    """What matters of one answered text."""

    vector: bytes
    tokens: int
    truncated: int


@dataclass
class Gateways:
    """The cached ones, the plain one, and what the plain one has said."""

    engine: StandInEngine = field(repr=False)  # a failure's report has room for the requests alone
    cached: list[httpx.Client]
    plain: httpx.Client
    told: dict[tuple[str, str, int | None], Answer] = field(default_factory=dict, repr=False)

    def one_by_one(self, text: str, model: str, dimensions: int | None) -> Answer:
        key = (text, model, dimensions)
        if key not in self.told:
            reply = post(self.plain, model, text, dimensions, "no-store")
            assert reply.headers["x-cache"] == "miss"
            vectors, tokens, truncated = parts(reply)
            self.told[key] = Answer(vectors[0], tokens, truncated)
        return self.told[key]


def post(
    client: httpx.Client, model: str, given: Any, dimensions: int | None = None, control: str = "normal"
) -> httpx.Response:
    """The answer; a busy machine's 503, for an engine that was not heard of in time, is asked again as it says."""
    body = {"model": model, "input": given, "encoding_format": "base64", "dimensions": dimensions}
    for _ in range(30):
        reply = client.post("/v1/embeddings", json=body, headers={"x-cache-control": control})
        if reply.status_code != 503:
            break
        time.sleep(float(reply.headers["retry-after"]))
    return reply


def parts(reply: httpx.Response) -> tuple[list[bytes], int, int]:
    """Vectors in order, tokens, truncated texts."""
    assert reply.status_code == 200, reply.text
    content = reply.json()
    assert [item["index"] for item in content["data"]] == list(range(len(content["data"])))
    vectors = [base64.b64decode(item["embedding"]) for item in content["data"]]
    assert content["usage"]["prompt_tokens"] == content["usage"]["total_tokens"]
    return vectors, content["usage"]["total_tokens"], int(reply.headers.get("x-truncated", "0"))


@pytest.fixture(scope="module")
def gateways(redis: RunningRedis) -> Iterator[Gateways]:
    @asynccontextmanager
    async def all_of_it() -> AsyncIterator[tuple[StandInEngine, list[str]]]:
        async with (
            StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
            running_gateway(engine.url, redis_url=redis.url, redis_timeout_ms=10_000) as one,
            running_gateway(engine.url, redis_url=redis.url, redis_timeout_ms=10_000, local_cache_mb=0) as two,
            running_gateway(engine.url, local_cache_mb=0) as plain,
        ):
            for client in (one, two, plain):
                await until_ready(client)
            yield engine, [str(client.base_url) for client in (one, two, plain)]

    with in_background(all_of_it()) as (engine, urls):
        clients = [httpx.Client(base_url=url, timeout=60) for url in urls]
        try:
            yield Gateways(engine, clients[:2], clients[2])
        finally:
            for client in clients:
                client.close()


@FEW
@given(
    requests=st.lists(
        st.tuples(
            texts,
            st.integers(0, 1),
            st.sampled_from(["normal", "exact-only", "no-cache", "no-store"]),
            st.sampled_from(MODELS),
            st.none() | st.integers(1, DIMENSIONS),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_mix_is_answered_as_one_by_one(gateways: Gateways, requests: list[Any]) -> None:
    """Duplicates, hits of either tier, misses, orders, lengths, scripts, prompts and cache control, in any mix."""
    for given_texts, which, control, model, dimensions in requests:
        expected = [gateways.one_by_one(text, model, dimensions) for text in given_texts]
        vectors, tokens, truncated = parts(post(gateways.cached[which], model, given_texts, dimensions, control))
        assert vectors == [answer.vector for answer in expected]
        assert tokens == sum(answer.tokens for answer in expected)
        assert truncated == sum(answer.truncated for answer in expected)


@FEW
@given(given_texts=texts, which=st.integers(0, 1))
def test_the_tiers_told_are_true(gateways: Gateways, given_texts: list[str], which: int) -> None:
    """x-cache-items names a tier for each input; asked again, nothing is computed and the bytes are the same."""
    before = len(gateways.engine.computed)
    first = post(gateways.cached[which], "tiny", given_texts)
    tiers = [part.partition("*") for part in first.headers["x-cache-items"].split(",")]
    assert sum(int(count or 1) for _, _, count in tiers) == len(given_texts)
    computed = len(gateways.engine.computed) - before
    assert (computed == 0) == ("miss" not in first.headers["x-cache-items"])
    again = post(gateways.cached[0], "tiny", given_texts)
    once_more = post(gateways.cached[0], "tiny", given_texts)
    assert once_more.headers["x-cache"] == "local"
    assert parts(first) == parts(again) == parts(once_more)


@FEW
@given(
    given_texts=texts,
    where=st.integers(0, 12),
    which=st.integers(0, 1),
    control=st.sampled_from(["normal", "no-cache"]),
)
def test_an_empty_text_refuses_all_and_computes_nothing(
    gateways: Gateways, given_texts: list[str], where: int, which: int, control: str
) -> None:
    """Wherever the empty string stands, the whole request is refused and the engine never hears of it."""
    before = len(gateways.engine.computed)
    broken = [*given_texts[:where], "", *given_texts[where:]]
    reply = post(gateways.cached[which], "tiny", broken, control=control)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input")
    assert len(gateways.engine.computed) == before


@FEW
@given(text=any_text | many_words, which=st.integers(0, 1), shape=st.sampled_from(["inputs", "texts"]))
def test_both_routes_give_one_vector(gateways: Gateways, text: str, which: int, shape: str) -> None:
    """`/embed`, in both its shapes, and `/v1/embeddings` agree to the bit on every text."""
    reply = gateways.cached[which].post("/embed", json={shape: [text]})
    vectors = reply.json() if shape == "inputs" else reply.json()["embeddings"]
    assert np.array(vectors[0], dtype="<f4").tobytes() == gateways.one_by_one(text, "tiny", None).vector


@FEW
@given(
    requests=st.lists(
        st.tuples(texts, st.integers(0, 1), st.sampled_from(["normal", "no-cache", "no-store"])), min_size=2, max_size=8
    )
)
def test_requests_at_the_same_time_do_not_mix(gateways: Gateways, requests: list[Any]) -> None:
    """Overlapping requests share computations, never answers: each gets its own texts' vectors and usage."""

    def ask(request: Any) -> tuple[list[bytes], int, int]:
        given_texts, which, control = request
        return parts(post(gateways.cached[which], "tiny", given_texts, control=control))

    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(ask, requests))
    for (given_texts, _, _), answer in zip(requests, answers, strict=True):
        expected = [gateways.one_by_one(text, "tiny", None) for text in given_texts]
        assert answer[0] == [one.vector for one in expected]
        assert answer[1] == sum(one.tokens for one in expected)
