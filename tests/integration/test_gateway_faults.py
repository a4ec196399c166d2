"""What the gateway does when Redis or a client misbehaves: no failed request, no hang, no stale answer."""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

BEARER = {"authorization": "Bearer operator-of-these-tests"}


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine:
        yield engine


async def ask(client: httpx.AsyncClient, text: str, **headers: str) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "tiny", "input": text}, headers=headers)


async def tier(client: httpx.AsyncClient, text: str, **headers: str) -> str:
    reply = await ask(client, text, **headers)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-cache"]


async def until_tier(client: httpx.AsyncClient, text: str, expected: str) -> None:
    """Ask until the text is served by this tier."""
    async with asyncio.timeout(60):
        while await tier(client, text) != expected:
            await asyncio.sleep(0.05)


async def test_a_refused_engine_is_named_in_ready_and_what_is_cached_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`/ready` says so, the log and the operator have the reason; a cached text is a hit, another one a typed 503."""
    engine, reason = StandInEngine(), tmp_path / "reason"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine.running())
        started = {"tiny": {"urls": [engine.url], "refusal_file": reason}}
        client = await stack.enter_async_context(
            running_gateway(engine.url, started_engines=started, admin_token="operator-of-these-tests")
        )
        await until_ready(client)
        assert await tier(client, "a b") == "miss"
        reason.write_text("engine cannot start: /srv/bundle/model.onnx is damaged; build the bundle again\n")
        assert (await client.get("/ready")).status_code == 200  # an engine that answers is not refused
        engine.ready = False
        await until_ready(client, 503)
        state = (await client.get("/ready")).json()
        assert state["engine"] == "it cannot start again; the log of its supervisor has the reason"
        stats = (await client.get("/admin/stats", headers=BEARER)).json()
        for told in (stats["models"]["tiny"], caplog.text):
            assert "/srv/bundle/model.onnx is damaged; build the bundle again" in told
        assert await tier(client, "a b") == "local"
        refused = await ask(client, "c d")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        reason.unlink()
        async with asyncio.timeout(60):
            while "supervisor" in (await client.get("/ready")).json()["engine"]:
                await asyncio.sleep(0.02)
        engine.ready = True
        await until_ready(client)


async def test_redis_killed_and_restarted_in_mid_traffic_fails_no_request(
    engine: StandInEngine, tmp_path: Path
) -> None:
    """Requests go on as misses while Redis is dead, and are exact hits again once it is back."""
    with running_redis(tmp_path / "redis") as redis:
        async with running_gateway(engine.url, redis_url=redis.url, local_cache_mb=0) as client:
            await until_ready(client)
            await until_tier(client, "a b", "exact")
            stop = asyncio.Event()
            statuses: list[int] = []

            async def traffic(text: str) -> None:
                while not stop.is_set():
                    statuses.append((await ask(client, text)).status_code)

            clients = [asyncio.create_task(traffic(text)) for text in ("a", "b", "c d")]
            await asyncio.sleep(0.3)
            redis.kill()
            await asyncio.sleep(0.7)
            assert (await client.get("/ready")).json()["redis"] == "away"
            await asyncio.to_thread(redis.restart)
            await until_tier(client, "one two", "exact")
            stop.set()
            await asyncio.gather(*clients)
            assert statuses
            assert set(statuses) == {200}


async def test_frozen_redis_costs_a_bounded_wait_and_then_nothing(engine: StandInEngine, tmp_path: Path) -> None:
    """A Redis that hangs is given up after a few time-outs; requests are answered meanwhile."""
    with running_redis(tmp_path / "redis") as redis:
        async with running_gateway(engine.url, redis_url=redis.url, local_cache_mb=0, redis_timeout_ms=50) as client:
            await until_ready(client)
            await until_tier(client, "a b", "exact")
            redis.process.send_signal(signal.SIGSTOP)
            try:
                for _ in range(5):
                    assert await tier(client, "a b") == "miss"
                assert {await tier(client, "a b") for _ in range(5)} == {"miss"}
                assert (await client.get("/ready")).json()["redis"] == "away"
            finally:
                redis.process.send_signal(signal.SIGCONT)
            await until_tier(client, "a b", "exact")


async def test_gateway_starts_without_redis_and_finds_it_later(engine: StandInEngine, tmp_path: Path) -> None:
    """A Redis that is away at start is no reason not to answer."""
    with running_redis(tmp_path / "redis") as redis:
        redis.kill()
        async with running_gateway(engine.url, redis_url=redis.url, local_cache_mb=0) as client:
            await until_ready(client)
            assert await tier(client, "a") == "miss"
            await asyncio.to_thread(redis.restart)
            await until_tier(client, "a", "exact")


async def test_damaged_entries_are_misses_and_are_mended(engine: StandInEngine, redis: RunningRedis) -> None:
    """A value somebody changed in Redis is never served; the text is computed and stored again."""
    async with running_gateway(engine.url, redis_url=redis.url, local_cache_mb=0) as client:
        await until_ready(client)
        async with Redis.from_url(redis.url) as direct:
            before = set(await direct.keys("dv1:x:*"))
            await until_tier(client, "a", "exact")
            (key,) = set(await direct.keys("dv1:x:*")) - before
            for spoiled in (b"", b"nonsense", (await direct.get(key))[:-1] + b"\x00\x01"):
                await direct.set(key, spoiled)
                assert await tier(client, "a") == "miss"
                await until_tier(client, "a", "exact")


async def test_entries_carry_the_ttl_with_jitter(engine: StandInEngine, redis: RunningRedis) -> None:
    """Entries live about cache_ttl_seconds, not all equally long."""
    async with running_gateway(
        engine.url, redis_url=redis.url, local_cache_mb=0, cache_ttl_seconds=1000, cache_ttl_jitter=0.2
    ) as client:
        await until_ready(client)
        async with Redis.from_url(redis.url) as direct:
            before = set(await direct.keys("dv1:x:*"))
            texts = [f"{'a ' * count}" for count in range(1, 13)]
            await client.post("/v1/embeddings", json={"model": "tiny", "input": texts})
            await until_tier(client, texts[-1], "exact")
            lives = [await direct.ttl(key) for key in set(await direct.keys("dv1:x:*")) - before]
    assert len(lives) == len(texts)
    assert all(790 <= life <= 1200 for life in lives)
    assert len(set(lives)) > 3


async def test_purge_reaches_every_gateway_and_survives_a_lost_second(engine: StandInEngine, tmp_path: Path) -> None:
    """A purge makes old entries unreachable here at once, elsewhere soon, and a Redis brought back from an
    older state does not bring them back."""
    with running_redis(tmp_path / "redis") as redis:
        options = {"redis_url": redis.url, "admin_token": "operator-of-these-tests"}
        async with running_gateway(engine.url, **options) as one, running_gateway(engine.url, **options) as two:
            await until_ready(one)
            await until_ready(two)
            await until_tier(one, "a", "local")
            await until_tier(two, "a", "local")
            async with Redis.from_url(redis.url) as direct:
                old = await direct.get("dv1:epoch:default")
                assert (
                    await one.post("/admin/purge", json={"namespace": "default"}, headers=BEARER)
                ).status_code == 200
                assert await tier(one, "a") == "miss"
                await asyncio.sleep(2)
                assert await tier(two, "a") == "exact"  # what gateway one computed after the purge
                await direct.set("dv1:epoch:default", old)
                await asyncio.sleep(2)
                assert await direct.get("dv1:epoch:default") > old
            assert await tier(one, "a") == "local"
            assert (await one.post("/admin/purge", json={"all": True}, headers=BEARER)).status_code == 200
            assert await tier(one, "a") == "miss"


async def test_admin_is_closed_without_its_own_token(engine: StandInEngine, redis: RunningRedis) -> None:
    """No token set: closed. A wrong one, or a user's key: refused. A wrong body: named."""
    async with running_gateway(engine.url) as client:
        assert (await client.get("/admin/stats", headers=BEARER)).status_code == 403
    keys = {"key-of-namespace-a": {"namespace": "a"}}
    async with running_gateway(
        engine.url, redis_url=redis.url, admin_token="operator-of-these-tests", api_keys=keys
    ) as client:
        for wrong in (
            {},
            {"authorization": "Bearer key-of-namespace-a"},
            {"authorization": BEARER["authorization"][:-1]},
        ):
            assert (await client.get("/admin/stats", headers=wrong)).status_code == 401
        assert (await client.get("/admin/stats", headers=BEARER)).json()["redis"] == "ok"
        for body in ({}, {"all": True, "namespace": "a"}, {"namespace": "*"}, {"some": 1}):
            reply = await client.post("/admin/purge", json=body, headers=BEARER)
            assert reply.status_code in (400, 422)
            assert list(reply.json()["error"]) == ["message", "type", "param", "code"]


async def test_namespaces_share_nothing(engine: StandInEngine, redis: RunningRedis) -> None:
    """The same text under two keys is two entries, in both tiers."""
    keys = {
        "key-of-namespace-a": {"namespace": "a"},
        "key-2-of-namespace-a": {"namespace": "a"},
        "key-of-namespace-b": {"namespace": "b"},
    }
    async with running_gateway(engine.url, redis_url=redis.url, api_keys=keys) as client:
        await until_ready(client)
        assert await tier(client, "a", authorization="Bearer key-of-namespace-a") == "miss"
        assert await tier(client, "a", authorization="Bearer key-of-namespace-b") == "miss"
        assert await tier(client, "a", authorization="Bearer key-2-of-namespace-a") == "local"
        reply = await ask(client, "a")
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_rate_limit_answers_429_with_retry_after(engine: StandInEngine) -> None:
    """A key's own limit is told apart from a full gateway, and says when to come back."""
    limited, other = "key-of-namespace-a", "key-2-of-namespace-a"
    keys = {limited: {"namespace": "a", "requests_per_minute": 2}, other: {"namespace": "a"}}
    async with running_gateway(engine.url, api_keys=keys) as client:
        await until_ready(client)
        replies = [await ask(client, "a", authorization=f"Bearer {limited}") for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert replies[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(replies[2].headers["retry-after"]) <= 30
        assert await tier(client, "a", authorization=f"Bearer {other}") == "local"


async def test_full_gateway_answers_429_and_recovers(engine: StandInEngine) -> None:
    """Beyond max_concurrent_requests a request is refused at once; nothing is lost afterwards."""
    engine.gate = asyncio.Event()
    async with running_gateway(engine.url, max_concurrent_requests=2) as client:
        await until_ready(client)
        held = [asyncio.create_task(ask(client, text)) for text in ("a", "b")]
        await asyncio.sleep(0.2)
        reply = await ask(client, "c")
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "overloaded")
        assert reply.headers["retry-after"] == "1"
        engine.gate.set()
        assert [(await task).status_code for task in held] == [200, 200]
        assert await tier(client, "c") == "miss"


async def test_deadline_is_kept_when_the_engine_hangs(engine: StandInEngine) -> None:
    """A request to a frozen engine ends with a typed 503 at its deadline, and its work is cancelled."""
    engine.gate = asyncio.Event()
    async with running_gateway(engine.url, request_timeout_s=0.5) as client:
        await until_ready(client)
        reply = await ask(client, "a")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "deadline_exceeded")
        engine.gate.set()
        assert await tier(client, "a") == "miss"


async def raw_connection(client: httpx.AsyncClient) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", client.base_url.port)


def head(length: int) -> bytes:
    return (
        "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


async def test_dripping_body_is_given_up(engine: StandInEngine) -> None:
    """A client that sends its body byte by byte gets a 408 at the body's time limit."""
    async with running_gateway(engine.url, body_timeout_s=0.5) as client:
        await until_ready(client)
        reader, writer = await raw_connection(client)
        writer.write(head(1000) + b"{")
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert b" 408 " in await answer
        writer.close()
        assert await tier(client, "a") == "miss"


async def test_body_cut_short_harms_nobody(engine: StandInEngine) -> None:
    """A client that leaves in the middle of its body is forgotten."""
    async with running_gateway(engine.url) as client:
        await until_ready(client)
        _, writer = await raw_connection(client)
        writer.write(head(1000) + b"{")
        await asyncio.sleep(0.1)
        writer.close()
        assert await tier(client, "a") == "miss"


async def test_client_that_never_reads_is_dropped(engine: StandInEngine) -> None:
    """A large reply nobody reads is given up after the send limit, and its connection closed."""
    async with running_gateway(engine.url, send_timeout_s=0.5) as client:
        await until_ready(client)
        body = json.dumps({"model": "tiny", "input": ["a"] * 2048}).encode()
        connections = [await raw_connection(client) for _ in range(4)]
        for _, writer in connections:
            for _ in range(40):  # pipelined requests, so that the replies outgrow the socket buffers
                writer.write(head(len(body)) + body)
        await asyncio.sleep(2)
        assert await tier(client, "b") == "miss"
        for _, writer in connections:
            writer.transport.abort()


async def test_running_requests_are_answered_on_shutdown(engine: StandInEngine) -> None:
    """A gateway told to stop answers what it has begun."""
    engine.gate = asyncio.Event()
    async with running_gateway(engine.url) as client:
        await until_ready(client)
        patient = httpx.AsyncClient(base_url=client.base_url, timeout=120)
        held = asyncio.create_task(ask(patient, "a"))
        await asyncio.sleep(0.2)
        asyncio.get_running_loop().call_later(0.3, engine.gate.set)
    assert (await held).status_code == 200
    await patient.aclose()
