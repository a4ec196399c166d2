"""Two gateways on one Redis: they share a key's limits, and what it has used can be read from either."""

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis.asyncio import Redis

from gateway.auth_failures import MAX_A_MINUTE
from tests import command_line
from tests.gateway_client import running_gateway, until_ready
from tests.integration.test_gateway_process import replace_a_worker, running
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

TOKEN = "operator-of-these-tests"
OPERATOR = {"authorization": f"Bearer {TOKEN}"}
TOKENS = 3  # of one word


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


class Pair:
    """Two gateways with the same keys; each test has a key of its own."""

    def __init__(self, clients: list[httpx.AsyncClient], key: str) -> None:
        self.clients, self.key = clients, key
        self.headers = {"authorization": f"Bearer {key}"}

    async def embed(self, gateway: int, *words: str) -> httpx.Response:
        body = {"model": "tiny", "input": list(words)}
        return await self.clients[gateway].post("/v1/embeddings", json=body, headers=self.headers)

    async def usage(self, gateway: int = 0, days: int = 1) -> Any:
        answer = await self.clients[gateway].get(f"/v1/usage?days={days}", headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def usage_with(self, requests: int) -> Any:
        """What was used, once so many requests are counted."""
        async with asyncio.timeout(60):
            while (found := await self.usage())["today"]["requests"] != requests:
                await asyncio.sleep(0.05)
        return found


class Pairs:
    """Starts pairs of gateways; they end with the test."""

    def __init__(self, stack: AsyncExitStack, engine: StandInEngine, redis: RunningRedis) -> None:
        self._stack, self._engine, self._redis = stack, engine, redis

    async def start(self, redis_url: str | None = None, others: dict[str, Any] | None = None, **limits: int) -> Pair:
        key = f"key-{secrets.token_hex(12)}"
        keys = {key: {"namespace": "a", **limits}, **(others or {})}
        clients = []
        for _ in range(2):
            gateway = running_gateway(
                self._engine.url, api_keys=keys, admin_token=TOKEN, redis_url=redis_url or self._redis.url
            )
            client = await self._stack.enter_async_context(gateway)
            await until_ready(client)
            clients.append(client)
        return Pair(clients, key)


@pytest.fixture
async def pairs(engine: StandInEngine, redis: RunningRedis) -> AsyncIterator[Pairs]:
    async with AsyncExitStack() as stack:
        yield Pairs(stack, engine, redis)


async def test_gateways_share_the_requests_of_a_minute(pairs: Pairs) -> None:
    """Ten a minute are ten on both together, also as they come, and what is left is told."""
    pair = await pairs.start(requests_per_minute=10)
    started = time.monotonic()
    replies = await asyncio.gather(*(pair.embed(number % 2, f"w{number}") for number in range(30)))
    came_in = (time.monotonic() - started) * 10 / 60
    passed = [reply for reply in replies if reply.status_code == 200]
    assert 10 <= len(passed) <= 10 + came_in
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 6  # until one more comes in
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    found = await pair.usage_with(len(passed))
    assert found["limits"]["requests_per_minute"]["limit"] == 10
    assert found["limits"]["requests_per_minute"]["left"] <= (time.monotonic() - started) * 10 / 60
    async with asyncio.timeout(60):
        while (await pair.usage())["today"]["refused"] != 30 - len(passed):
            await asyncio.sleep(0.05)


async def test_a_days_budget_of_both_ends_with_openais_error(pairs: Pairs, engine: StandInEngine) -> None:
    """The last tokens can be had at either; what the engine failed is given back; OpenAI's client does not retry."""
    pair = await pairs.start(tokens_per_day=4 * TOKENS, tokens_per_month=100 * TOKENS)
    engine.refusal = (500, "broken", {})
    assert (await pair.embed(0, "w1", "w2")).status_code == 503
    engine.refusal = None
    for gateway in (0, 1, 0):
        assert (await pair.embed(gateway, f"w{gateway}")).status_code == 200
    async with asyncio.timeout(60):  # what was given back lies with the first for a second or two
        while (reply := await pair.embed(1, "w4")).status_code != 200:
            await asyncio.sleep(0.05)
    refused = [await pair.embed(gateway, "w5") for gateway in (0, 1)]
    for reply in refused:
        error = reply.json()["error"]
        assert (reply.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
        assert f"budget of {4 * TOKENS} tokens a day; it renews at 20" in error["message"]
        assert int(reply.headers["retry-after"]) <= 86_400
    requests: list[object] = []

    async def count(request: object) -> None:
        requests.append(request)

    client = openai.AsyncOpenAI(api_key=pair.key, base_url=f"{pair.clients[0].base_url}/v1", max_retries=5, timeout=120)
    client._client.event_hooks["request"].append(count)
    with pytest.raises(openai.RateLimitError) as raised:
        await client.embeddings.create(model="tiny", input="w6")
    assert (raised.value.type, len(requests)) == ("insufficient_quota", 1)
    await client.close()
    limits = (await pair.usage(1))["limits"]
    assert (limits["tokens_per_day"]["used"], limits["tokens_per_day"]["left"]) == (4 * TOKENS, 0)
    assert limits["tokens_per_month"]["left"] == 96 * TOKENS
    assert "requests_per_minute" not in limits


async def test_usage_sums_over_gateways_and_tiers(pairs: Pairs, engine: StandInEngine) -> None:
    """Of a key without limits too; nothing of the key itself is in Redis or in an answer; days come as asked."""
    pair = await pairs.start()
    for gateway in (0, 1, 0):
        assert (await pair.embed(gateway, "w1", "w2", "w2")).status_code == 200
    found = await pair.usage_with(3)
    today = found["today"]
    assert (today["tokens"], sum(today["texts"].values())) == (9 * TOKENS, 9)
    assert today["texts"]["miss"] >= 3
    assert today["texts"]["local"] >= 3
    assert found["month"]["tokens"] == 9 * TOKENS
    assert found["limits"] == {}
    assert found["days"] == [today]
    assert len((await pair.usage(days=35))["days"]) == 35
    assert (await pair.clients[0].get("/v1/usage?days=36", headers=pair.headers)).status_code == 422
    assert pair.key not in json.dumps(found)


async def test_usage_is_for_the_keys_owner(pairs: Pairs) -> None:
    """Without a key, with a wrong one, with two: as for embeddings, and guesses are counted with the others."""
    pair = await pairs.start()
    client = pair.clients[0]
    assert (await client.get("/v1/usage")).status_code == 401
    both = {**pair.headers, "api-key": "another-key-of-somebody"}
    assert (await client.get("/v1/usage", headers=both)).status_code == 401
    assert (await client.get("/v1/usage", headers={"x-api-key": pair.key})).status_code == 200
    for _ in range(MAX_A_MINUTE):
        await client.get("/v1/usage", headers={"authorization": "Bearer guess-guess-guess-guess"})
    assert (await client.get("/v1/usage", headers={"authorization": "Bearer guess-guess-guess"})).status_code == 429
    assert (await client.get("/admin/usage", headers=pair.headers)).status_code in (401, 429)


async def test_an_operator_pages_through_all_keys(pairs: Pairs) -> None:
    """In the order of their ids, each once, those of one namespace when asked for."""
    others = {f"other-key-{number}-of-these-tests": {"namespace": f"n{number % 2}"} for number in range(6)}
    pair = await pairs.start(others=others, tokens_per_minute=100)
    await pair.embed(0, "w1")
    await pair.usage_with(1)
    seen, after = [], ""
    while True:
        answer = await pair.clients[0].get(f"/admin/usage?limit=3{after}", headers=OPERATOR)
        page = answer.json()
        seen += page["keys"]
        assert len(page["keys"]) <= 3
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert [one["key"] for one in seen] == sorted({one["key"] for one in seen})
    assert len(seen) == 7
    (mine,) = [one for one in seen if one["namespace"] == "a"]
    assert mine["key"] == (await pair.usage())["key"]
    assert mine["today"]["requests"] == 1
    assert mine["limits"]["tokens_per_minute"]["limit"] == 100
    answer = await pair.clients[1].get("/admin/usage?namespace=n1", headers=OPERATOR)
    assert [one["namespace"] for one in answer.json()["keys"]] == ["n1"] * 3
    assert (await pair.clients[1].get("/admin/usage?namespace=n2", headers=OPERATOR)).status_code == 404
    for wrong in ("limit=0", "limit=101", "after=x", "days=-1"):
        assert (await pair.clients[1].get(f"/admin/usage?{wrong}", headers=OPERATOR)).status_code == 422
    assert (await pair.clients[1].get("/admin/usage")).status_code == 401


async def test_redis_away_and_back(pairs: Pairs, tmp_path: Path) -> None:
    """Limits hold by each gateway's share, usage is a typed 503, and all is counted when Redis is back."""
    with running_redis(tmp_path) as redis:
        pair = await pairs.start(redis_url=redis.url, requests_per_minute=600, tokens_per_day=1000)
        assert [(await pair.embed(gateway, "w1")).status_code for gateway in (0, 1)] == [200, 200]
        await pair.usage_with(2)
        redis.kill()
        assert [(await pair.embed(gateway, "w1")).status_code for gateway in (0, 1)] == [200, 200]
        answer = await pair.clients[0].get("/v1/usage", headers=pair.headers)
        if answer.status_code != 200:  # unless it was read within the last second
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "state_unavailable")
        redis.restart()
        async with asyncio.timeout(60):
            while True:
                answer = await pair.clients[0].get("/v1/usage", headers=pair.headers)
                if answer.status_code == 200 and answer.json()["today"]["requests"] == 4:
                    break
                await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            while (await pair.usage())["limits"]["tokens_per_day"]["used"] != 4 * TOKENS:
                await asyncio.sleep(0.05)


async def test_without_redis_a_gateway_counts_for_itself(engine: StandInEngine) -> None:
    """Usage since its start, and budgets by itself; an open gateway has one usage for everybody."""
    async with running_gateway(engine.url) as client:
        await until_ready(client)
        await client.post("/v1/embeddings", json={"model": "tiny", "input": "w1"})
        found = (await client.get("/v1/usage")).json()
        assert (found["namespace"], found["today"]["requests"], found["today"]["tokens"]) == ("default", 1, TOKENS)


async def test_the_command_shows_both(pairs: Pairs, tmp_path: Path) -> None:
    """One's own key by default, every key with --all; a wrong use is one message."""
    pair = await pairs.start(tokens_per_minute=6000, tokens_per_month=5000)
    await pair.embed(0, "w1")
    await pair.usage_with(1)
    variables = {
        "DEJAVEC_CLIENT_URL": str(pair.clients[0].base_url),
        "DEJAVEC_CLIENT_API_KEY": pair.key,
        "DEJAVEC_CLIENT_ADMIN_TOKEN": TOKEN,
    }

    async def run(*words: str) -> tuple[int, str, str]:
        return await command_line.dejavec(tmp_path, "usage", *words, **variables)

    own, every, as_json, wrong = await asyncio.gather(
        run("--days", "2"), run("--all"), run("--all", "--json", "--namespace", "a"), run("--namespace", "a")
    )
    status, out, err = own
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("namespace a")
    assert lines[2].split() == ["UTC", "requests", "refused", "tokens", "local", "exact", "semantic", "miss"]
    assert lines[3].split()[1:] == ["1", "0", "3", "0", "0", "0", "1"]
    assert any(line.startswith("tokens per month") and " 5,000  4,997  20" in line for line in lines)
    status, out, _ = every
    assert status == 0
    assert out.splitlines()[1].split()[1:] == ["a", "1", "0", "3", "0", "0", "0", "1", "3", "of", "5,000"]
    status, out, _ = as_json
    assert json.loads(out)["namespace"] == "a"
    assert pair.key not in out
    assert wrong[0] == 2


async def test_worker_processes_share_limits_and_sum_usage(
    engine: StandInEngine, redis: RunningRedis, tmp_path: Path
) -> None:
    """Two real workers, each connection to either: one limit; a worker that is killed takes no more than a second's
    counts with it."""
    key, others_key = (f"key-{secrets.token_hex(12)}" for _ in range(2))
    variables = {
        "DEJAVEC_ENGINE_URL": engine.url,
        "DEJAVEC_REDIS_URL": redis.url,
        "DEJAVEC_REDIS_TIMEOUT_MS": "2000",
        "DEJAVEC_API_KEYS": json.dumps(
            {key: {"namespace": "a", "requests_per_minute": 20}, others_key: {"namespace": "b"}}
        ),
    }
    headers = {"authorization": f"Bearer {key}", "connection": "close"}
    gateway = running(tmp_path, tmp_path / "log", **variables)
    started = await asyncio.to_thread(gateway.__enter__)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{started.port}", timeout=120) as client:
            await until_ready(client)

            async def embed(number: int, key: str = key) -> int:
                body, headers = {"model": "tiny", "input": f"w{number}"}, {"connection": "close"}
                headers["authorization"] = f"Bearer {key}"
                return (await client.post("/v1/embeddings", json=body, headers=headers)).status_code

            async with asyncio.timeout(120):  # the other worker has seen its engine too
                while any([await embed(0, others_key) != 200 for _ in range(20)]):
                    await asyncio.sleep(0.1)
            began = time.monotonic()
            statuses = await asyncio.gather(*(embed(number) for number in range(60)))
            passed = statuses.count(200)
            assert set(statuses) <= {200, 429}
            assert 20 <= passed <= 20 + (time.monotonic() - began) * 20 / 60, Counter(statuses)

            async def usage() -> Any:
                with suppress(httpx.HTTPError):  # of a worker that has just been killed
                    return (await client.get("/v1/usage", headers=headers)).json()
                return None

            today = (shown := await usage())["today"]["date"]
            async with asyncio.timeout(120), Redis.from_url(redis.url) as server:
                written = [0]
                while sum(written[:2]) != 60:  # in Redis: what only the workers know goes with them
                    await asyncio.sleep(0.05)
                    written = list(
                        map(int, (await server.hget(f"dv1:{{k:{shown['key']}}}:usage", today) or b"").split())
                    )
            assert written[0] == passed
            await asyncio.to_thread(replace_a_worker, started)
            async with asyncio.timeout(120):  # a worker shows what it has read for a second
                while (after := await usage()) is None or after["today"]["requests"] != passed:
                    await asyncio.sleep(0.05)
    finally:
        await asyncio.to_thread(gateway.__exit__, None, None, None)
