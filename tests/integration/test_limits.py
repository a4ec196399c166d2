"""Limits of a key and of an address, on a gateway behind real HTTP."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.auth_failures import MAX_A_MINUTE
from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import StandInEngine

TEXTS = 50
TOKENS = TEXTS * 12

KEY, TOKEN = "key-of-these-tests", "operator-of-these-tests"


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


def limited(engine: StandInEngine, **key: int) -> Any:
    keys = {KEY: {"namespace": "a", **key}, "another-key-of-these-tests": {"namespace": "b"}}
    return running_gateway(engine.url, api_keys=keys, admin_token=TOKEN)


async def ask(client: httpx.AsyncClient, number: int, key: str = KEY) -> httpx.Response:
    texts = [f"w{number} w{place}{' a' * 8}" for place in range(TEXTS)]
    body = {"model": "tiny", "input": texts}
    return await client.post("/v1/embeddings", json=body, headers={"authorization": f"Bearer {key}"})


async def test_requests_of_one_moment_take_no_more_tokens_than_there_are(engine: StandInEngine) -> None:
    """Twenty at once, for two of which there are tokens; the others are told to wait a minute at most."""
    async with limited(engine, tokens_per_minute=2 * TOKENS) as client:
        await until_ready(client)
        replies = await asyncio.gather(*(ask(client, number) for number in range(20)))
        passed = [reply for reply in replies if reply.status_code == 200]
        assert [reply.json()["usage"]["total_tokens"] for reply in passed] == [TOKENS] * 2
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) == 18
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        assert len(engine.computed) == 2 * TEXTS
        assert (await ask(client, 0, "another-key-of-these-tests")).status_code == 200


async def test_a_request_of_more_tokens_than_a_minutes_passes_alone(engine: StandInEngine) -> None:
    """The bound on what is taken too much is one request."""
    async with limited(engine, tokens_per_minute=100) as client:
        await until_ready(client)
        replies = await asyncio.gather(*(ask(client, number) for number in range(20)))
        assert sorted(reply.status_code for reply in replies) == [200] + [429] * 19


async def test_what_was_not_delivered_is_given_back(engine: StandInEngine) -> None:
    """Tokens of a request that the engine failed, and of a client that left; cached texts are charged as others are."""
    async with limited(engine, tokens_per_minute=TOKENS) as client:
        await until_ready(client)
        engine.refusal = (500, "broken", {})
        assert (await ask(client, 1)).status_code == 503
        engine.refusal, engine.gate = None, asyncio.Event()
        with pytest.raises(httpx.ReadTimeout):
            await client.post(
                "/v1/embeddings",
                json={"model": "tiny", "input": ["w1 a"] * TEXTS},
                headers={"authorization": f"Bearer {KEY}"},
                timeout=0.5,
            )
        async with asyncio.timeout(120):
            while engine.cancelled == 0:
                await asyncio.sleep(0.01)
        engine.gate = None
        async with asyncio.timeout(120):
            while (await ask(client, 1)).status_code != 200:
                await asyncio.sleep(0.01)
        assert (await ask(client, 1)).status_code == 429


async def test_guessing_is_refused_and_counted(engine: StandInEngine) -> None:
    """Keys and admin tokens alike, all of one address; the right ones pass."""
    async with limited(engine) as client:
        await until_ready(client)
        guesses = [await ask(client, 0, f"{KEY}{number}") for number in range(MAX_A_MINUTE // 2)]
        for number in range(MAX_A_MINUTE):
            headers = {"authorization": f"Bearer {TOKEN}{number}"}
            guesses.append(await client.get("/admin/stats", headers=headers))
        assert [guess.status_code for guess in guesses] == [401] * MAX_A_MINUTE + [429] * (MAX_A_MINUTE // 2)
        assert guesses[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(guesses[-1].headers["retry-after"]) <= 60
        assert (await ask(client, 0)).status_code == 200
        assert (await client.get("/admin/stats", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert "dejavec_auth_failures_total" in (await client.get("/metrics")).text
