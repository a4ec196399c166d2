"""Two models behind one gateway: which one answers, what they share, and what one does while the other is away."""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.client import AsyncClient, FingerprintMismatch
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import DIMENSIONS, WIDTH, StandInEngine

TOKEN = "operator-of-these-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def docs() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16), model="e5", has_static_embedding=True).running() as one:
        yield one


@pytest.fixture
async def code() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16), model="minilm").running() as one:
        yield one


def engines_of(docs: StandInEngine, code: StandInEngine) -> dict[str, Any]:
    return {"docs": {"urls": [docs.url], "aliases": ["text-embedding-3-large"]}, "code": {"urls": [code.url]}}


async def ready(client: httpx.AsyncClient, **expected: bool) -> None:
    async with asyncio.timeout(60):
        while True:
            models = (await client.get("/ready")).json().get("models", {})
            if {name: models.get(name) == "ready" for name in expected} == expected:
                return
            await asyncio.sleep(0.02)


async def ask(client: httpx.AsyncClient, model: str | None, text: str = "a b c", **headers: str) -> httpx.Response:
    body = {"input": text} if model is None else {"model": model, "input": text}
    return await client.post("/v1/embeddings", json=body, headers=headers)


async def test_each_name_is_answered_by_its_model(
    docs: StandInEngine, code: StandInEngine, redis: RunningRedis
) -> None:
    """By its own dimensions, fingerprint and name; the same text of one is no hit of the other, in no tier."""
    settings = {"engines": engines_of(docs, code), "redis_url": redis.url, "admin_token": TOKEN}
    async with running_gateway(None, **settings) as client:
        await ready(client, docs=True, code=True)
        for name, engine, width in (
            ("docs", docs, WIDTH), ("e5", docs, WIDTH), ("text-embedding-3-large:document", docs, WIDTH),
            (None, docs, WIDTH), ("code", code, DIMENSIONS), ("openai/minilm", code, DIMENSIONS),
        ):  # fmt: skip
            reply = await ask(client, name)
            assert reply.status_code == 200, (name, reply.text)
            assert reply.headers["x-dejavec-fingerprint"] == engine.fingerprint
            assert reply.json()["model"] == engine.model
            assert len(reply.json()["data"][0]["embedding"]) == width
        assert (docs.computed, code.computed) == ([(1, 100, 101, 102, 2)], [(1, 100, 101, 102, 2)])
        assert [(await ask(client, name)).headers["x-cache"] for name in ("docs", "code")] == ["local", "local"]

        listed = [one["id"] for one in (await client.get("/v1/models")).json()["data"]]
        assert listed == ["e5", "docs", "text-embedding-3-large", "minilm", "code"]
        unknown = await ask(client, "e6")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        info = (await client.get("/info")).json()
        assert (info["fingerprint"], set(info["models"])) == (docs.fingerprint, {"docs", "code"})
        assert (await client.get("/info", params={"model": "code"})).json()["dimensions"] == DIMENSIONS
        loaded = (await client.get("/api/ps")).json()["models"]
        assert [one["model"] for one in loaded] == ["e5:latest", "minilm:latest"]
        deployment = await client.post("/openai/deployments/code/embeddings", json={"input": "a b c"})
        assert deployment.json()["model"] == "minilm"
        tokens = (await client.post("/tokenize", json={"inputs": "a", "model": "code"})).json()
        assert [one["id"] for one in tokens[0]] == [1, 100, 2]

        async with asyncio.timeout(60):
            while 'dejavec_engine_ready{model="code"} 1.0' not in (metrics := (await client.get("/metrics")).text):
                await asyncio.sleep(0.1)
        for name in ("docs", "code"):
            for tier in ("miss", "local"):
                assert re.search(f'dejavec_cache_hits_total{{model="{name}",tier="{tier}"}} [1-9]', metrics)
            assert re.search(f'dejavec_tokens_total{{model="{name}"}} [1-9]', metrics)


async def test_the_client_keeps_to_one_model(docs: StandInEngine, code: StandInEngine) -> None:
    """It asks who the model is that a call names, also of a fallback; another model's vectors are refused."""
    async with AsyncExitStack() as stack:
        engines = engines_of(docs, code)
        first = await stack.enter_async_context(running_gateway(None, engines=engines))
        second = await stack.enter_async_context(running_gateway(None, engines=dict(reversed(engines.items()))))
        for gateway in (first, second):
            await ready(gateway, docs=True, code=True)
        client = AsyncClient(str(first.base_url), fallback_url=str(second.base_url))
        await stack.enter_async_context(client)
        assert (await client.info("code")).fingerprint == code.fingerprint
        assert (await client.info()).fingerprint == docs.fingerprint
        await client.embed(["a b"], model="code")
        client.inject_fault("connect")
        assert (await client.embed(["a b"], model="minilm")).fingerprint == code.fingerprint
        client.clear_faults()
        with pytest.raises(FingerprintMismatch):
            await client.embed(["a b"], model="docs")


async def test_operators_see_what_each_model_has_learned(
    docs: StandInEngine, code: StandInEngine, redis: RunningRedis
) -> None:
    """By its name; a model without a static embedding has no semantic tier, and an unknown one is a 404."""
    settings = {"engines": engines_of(docs, code), "redis_url": redis.url, "admin_token": TOKEN}
    async with running_gateway(None, **settings) as client:
        await ready(client, docs=True, code=True)

        async def explained(model: str | None) -> httpx.Response:
            body = {"text": "a b c d e f", "truth": True, **({} if model is None else {"model": model})}
            return await client.post("/admin/explain", json=body, headers=BEARER)

        async with asyncio.timeout(60):
            while (await explained(None)).status_code != 200:
                await asyncio.sleep(0.05)
        assert (await explained("e5")).status_code == 200
        assert "no semantic tier" in (await explained("code")).json()["error"]["message"]
        for path, status in (("thresholds", 200), ("thresholds?model=docs", 200), ("thresholds?model=e6", 404),
                             ("calibration?model=docs", 200), ("calibration?model=code", 404)):  # fmt: skip
            assert (await client.get(f"/admin/{path}", headers=BEARER)).status_code == status, path
        purged = await client.post("/admin/purge", json={"namespace": "default"}, headers=BEARER)
        assert purged.status_code == 200


async def test_one_answers_while_the_other_is_away(docs: StandInEngine, code: StandInEngine) -> None:
    """The gateway stays ready and names the one that is not; its cached texts are served, others are a typed 503."""
    async with running_gateway(None, engines=engines_of(docs, code)) as client:
        await ready(client, docs=True, code=True)
        await ask(client, "docs", "a b")
        docs.ready = False
        await ready(client, docs=False, code=True)
        state = (await client.get("/ready")).json()
        assert (state["status"], state["engine"]) == ("ready", "not all are ready")
        assert (await ask(client, "docs", "a b")).headers["x-cache"] == "local"
        refused = await ask(client, "docs", "c d")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert (await ask(client, "code", "c d")).status_code == 200
        code.ready = False
        await until_ready(client, 503)


async def test_a_slow_model_leaves_the_other_its_places(docs: StandInEngine, code: StandInEngine) -> None:
    """Requests for it beyond half of all that may be in progress are refused, and the other model's are answered."""
    docs.gate = asyncio.Event()
    async with running_gateway(None, engines=engines_of(docs, code), max_concurrent_requests=8) as client:
        await ready(client, docs=True, code=True)
        waiting = [asyncio.create_task(ask(client, "docs", f"a w{n}")) for n in range(4)]
        async with asyncio.timeout(60):
            while "dejavec_requests_in_flight 4.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
        refused = await ask(client, "docs", "a w9")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "others are answered" in refused.json()["error"]["message"]
        assert (await ask(client, "code", "a w9")).status_code == 200
        docs.gate.set()
        assert [reply.status_code for reply in await asyncio.gather(*waiting)] == [200] * 4
        assert (await ask(client, "docs", "a w9")).status_code == 200


async def test_limits_of_tokens_hold_for_each_model(docs: StandInEngine, code: StandInEngine) -> None:
    """What one has used up the other still has."""
    keys = {"key-of-team-alpha": {"namespace": "alpha", "tokens_per_minute": 10}}
    async with running_gateway(None, engines=engines_of(docs, code), api_keys=keys) as client:
        await ready(client, docs=True, code=True)
        key = {"api-key": "key-of-team-alpha"}
        spent = [(await ask(client, "docs", f"a b c d w{n}", **key)).status_code for n in range(3)]
        assert (spent[0], spent[-1]) == (200, 429)
        assert (await ask(client, "code", "a b c d", **key)).status_code == 200


async def test_an_engine_of_another_fingerprint_than_the_configured_one_serves_nothing(docs: StandInEngine) -> None:
    """`/ready` and refused requests say why; the operator sees it left out."""
    engines = {"docs": {"urls": [docs.url], "fingerprint": "0" * 32}}
    async with running_gateway(None, engines=engines, admin_token=TOKEN) as client:
        async with asyncio.timeout(60):
            while "another fingerprint" not in (await client.get("/ready")).json()["engine"]:
                await asyncio.sleep(0.02)
        assert (await client.get("/ready")).status_code == 503
        refused = await ask(client, "docs")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "no engine has the fingerprint that is configured" in refused.json()["error"]["message"]
        stats = (await client.get("/admin/stats", headers=BEARER)).json()
        assert [one["state"] for one in stats["engines"]["docs"]] == ["left_out"]


async def test_a_model_gets_other_engines_without_losing_what_is_cached(
    docs: StandInEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second engine of the same fingerprint takes over; no request is refused meanwhile."""
    file = tmp_path / "dejavec.toml"
    monkeypatch.setenv("DEJAVEC_CONFIG", str(file))
    second = StandInEngine(fingerprint=docs.fingerprint, model="e5", has_static_embedding=True)
    async with second.running(), running_gateway(None, engines={"docs": {"urls": [docs.url]}}) as client:
        await until_ready(client)
        assert (await ask(client, "docs", "a b")).headers["x-cache"] == "miss"
        file.write_text(f'[engines.docs]\nurls = ["{second.url}"]\n')
        texts = (f"a w{number}" for number in range(400))
        async with asyncio.timeout(60):
            while not second.computed:
                assert (await ask(client, "docs", next(texts))).status_code in (200, 503)
                await asyncio.sleep(0.02)
        assert (await ask(client, "docs", "a b")).headers["x-cache"] == "local"


async def test_models_come_and_go_without_a_restart(
    docs: StandInEngine,
    code: StandInEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the settings file: a new one answers, one that is gone is a 404, what stays keeps what it has cached."""
    file = tmp_path / "dejavec.toml"
    monkeypatch.setenv("DEJAVEC_CONFIG", str(file))

    def write(**engines: dict[str, Any]) -> None:
        tables = [
            f"[engines.{name}]\n" + "".join(f"{field} = {json.dumps(value)}\n" for field, value in one.items())
            for name, one in engines.items()
        ]
        file.write_text("\n".join(tables))

    async def until(model: str, status: int) -> None:
        async with asyncio.timeout(60):
            while (await ask(client, model)).status_code != status:
                await asyncio.sleep(0.05)

    write(docs={"urls": [docs.url]})
    async with running_gateway(None, engines={"docs": {"urls": [docs.url]}}) as client:
        await until("docs", 200)
        assert (await ask(client, "code")).status_code == 404
        write(docs={"urls": [docs.url], "aliases": ["manual"]}, code={"urls": [code.url]})
        await until("code", 200)
        assert (await ask(client, "manual")).headers["x-cache"] == "local"
        write(code={"urls": [code.url]})
        await until("docs", 404)
        assert (await ask(client, None)).json()["model"] == "minilm"
        file.write_text('[engines.docs]\nurls = ["http://127.0.0.2:9"]\n[engines.code]\nurls = []\n')
        async with asyncio.timeout(60):
            while "settings stay as they are: engines.code.urls" not in caplog.text:
                await asyncio.sleep(0.05)
        assert (await ask(client, "code")).status_code == 200  # refused whole: all stays as it is
        assert (await ask(client, "docs")).status_code == 404
