"""The semantic tier over real HTTP and a real RediSearch index: what it serves, what it must never serve.

The stand-in engine gives texts of like words like vectors, except that the word "x", which its static embedding does
not see, turns a vector around: a planted violation.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine, meaning_of, tiny_tokenizer

OPERATOR = {"authorization": "Bearer operator-of-these-tests"}
BASE = " ".join(f"w{number}" for number in range(12))


def near(number: int) -> str:
    """A text that differs from BASE by one word in twelve: cosine about 0.96."""
    return " ".join(f"w{word}" for word in range(12)) + f" w{20 + number}"


def true(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return meaning_of(tiny_tokenizer().encode(text).ids)


async def ask(client: httpx.AsyncClient, text: str, key: str | None = None, **headers: str) -> httpx.Response:
    body = {"model": "tiny", "input": text, "encoding_format": "base64"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    reply = await client.post("/v1/embeddings", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


async def tier(client: httpx.AsyncClient, text: str, key: str | None = None, **headers: str) -> str:
    return str((await ask(client, text, key, **headers)).headers["x-cache"])


def vector(reply: httpx.Response) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(base64.b64decode(reply.json()["data"][0]["embedding"]), dtype="<f4")


async def explain(client: httpx.AsyncClient, text: str, **more: Any) -> dict[str, Any]:
    reply = await client.post("/admin/explain", json={"text": text, **more}, headers=OPERATOR)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(120):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_indexed(client: httpx.AsyncClient, text: str, namespace: str = "default") -> None:
    """Until the index offers this text's own entry as a candidate."""

    async def found() -> bool:
        candidates = (await explain(client, text, namespace=namespace))["candidates"]
        return bool(candidates) and candidates[0]["static_similarity"] > 0.9999

    await until(found)


async def ready_with(client: httpx.AsyncClient, *texts: str) -> None:
    """The gateway is ready, its index usable, and these texts are in it."""
    await until_ready(client)

    async def usable() -> bool:
        return (await explain(client, BASE))["index"]["kind"] != "none"

    await ask(client, "w399 w398 w397 w396")
    await until(usable)
    for text in texts:
        await ask(client, text)
        await until_indexed(client, text)


async def test_a_near_text_is_served_with_its_prediction(gateway: Callable[..., Any]) -> None:
    """Mode on: the neighbour's own stored vector, with predicted similarity and threshold in the headers."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        reply = await ask(client, near(1))
        assert reply.headers["x-cache"] == reply.headers["x-cache-items"] == "semantic"
        assert vector(reply).tobytes() == true(BASE).tobytes()
        assert float(reply.headers["x-cache-similarity"]) >= float(reply.headers["x-cache-threshold"])
        assert vector(reply) @ true(near(1)) >= 0.92


async def test_a_semantic_hit_is_never_kept(gateway: Callable[..., Any], engine: StandInEngine) -> None:
    """Neither L0 nor Redis nor the index holds anything for the text that was a semantic hit."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        assert [await tier(client, near(1)) for _ in range(3)] == ["semantic"] * 3
        assert (await explain(client, near(1)))["candidates"][0]["static_similarity"] < 0.9999
        reply = await ask(client, near(1), **{"x-cache-control": "exact-only"})
        assert reply.headers["x-cache"] == "miss"
        assert vector(reply).tobytes() == true(near(1)).tobytes()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-cache-control": "exact-only"},
        {"x-cache-control": "no-cache"},
        {"x-cache-control": "no-store"},
        {"x-min-fidelity": "0.95"},
    ],
)
async def test_opt_outs_are_kept(gateway: Callable[..., Any], headers: dict[str, str]) -> None:
    """Where a request allows no semantic hit, or asks for more than the namespace's fidelity, the engine computes."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        reply = await ask(client, near(2), **headers)
        assert reply.headers["x-cache"] == "miss"
        assert vector(reply).tobytes() == true(near(2)).tobytes()


async def test_short_texts_are_not_looked_up(gateway: Callable[..., Any]) -> None:
    """Below min_text_length a text is neither a semantic hit nor offered as a neighbour."""
    async with gateway(semantic_mode="on", min_text_length=len(BASE) + 1) as client:
        await ready_with(client)
        await ask(client, BASE)
        assert await tier(client, near(3)) == "miss"
        await until_indexed(client, near(3))
        assert len((await explain(client, near(3)))["candidates"]) == 1  # itself, no neighbour


async def test_namespaces_never_cross(gateway: Callable[..., Any]) -> None:
    """One tenant's texts are no candidates for another's."""
    keys = {"key-of-namespace-a": {"namespace": "a"}, "key-of-namespace-b": {"namespace": "b"}}
    async with gateway(semantic_mode="on", api_keys=keys) as client:
        await until_ready(client)
        await ask(client, BASE, "key-of-namespace-a")

        async def indexed() -> bool:
            await ask(client, BASE, "key-of-namespace-a", **{"x-cache-control": "no-cache"})
            return bool((await explain(client, BASE, namespace="a"))["candidates"])

        await until(indexed)
        assert await tier(client, near(1), "key-of-namespace-b") == "miss"
        assert await tier(client, near(2), "key-of-namespace-a") == "semantic"


async def test_a_verified_violation_is_mended(gateway: Callable[..., Any], engine: StandInEngine) -> None:
    """Served once, found out, and never again: the neighbour leaves the index, the true vector is stored."""
    wrong = f"{BASE} x"
    async with gateway(semantic_mode="on", local_cache_mb=0) as client:
        await ready_with(client, BASE)
        neighbour = (await explain(client, wrong))["best"]["entry"]
        assert await tier(client, wrong) == "semantic"

        async def mended() -> bool:
            return await tier(client, wrong) == "exact"

        await until(mended)
        assert vector(await ask(client, wrong)).tobytes() == true(wrong).tobytes()
        await until_indexed(client, wrong)
        entries = {one["entry"] for one in (await explain(client, wrong))["candidates"]}
        assert neighbour not in entries

        async def counted() -> bool:
            return bool((await explain(client, near(1)))["threshold"]["violations"] == 1)

        await until(counted)


async def test_observe_learns_and_serves_nothing(gateway: Callable[..., Any]) -> None:
    """Labels come in; every answer is still the engine's own."""
    async with gateway(semantic_mode="observe", engine_price_ms=10_000) as client:
        await ready_with(client, BASE)
        for number in range(20):
            reply = await ask(client, near(number))
            assert reply.headers["x-cache"] == "miss"
            assert vector(reply).tobytes() == true(near(number)).tobytes()
        metrics = (await client.get("/metrics")).text
        assert 'dejavec_semantic_labels_total{of="miss",verdict="good"}' in metrics


async def certified(client: httpx.AsyncClient, start: int = 0) -> int:
    """Ask for near texts until one is a semantic hit; returns how many that took."""
    for number in range(start, 370):
        if await tier(client, near(number)) == "semantic":
            return number
        await asyncio.sleep(0.01)
    pytest.fail(f"not certified: {await explain(client, near(0))}")


async def test_auto_serves_only_once_certified_and_remembers_it(gateway: Callable[..., Any]) -> None:
    """Mode auto: nothing at first; after enough clean labels serving begins; a new gateway goes on where it stopped."""
    settings = {"semantic_mode": "auto", "engine_price_ms": 10_000, "certificate_alpha": 0.2, "certificate_beta": 0.2}
    async with gateway(**settings) as client:
        await ready_with(client, BASE)
        served_at = await certified(client)
        assert served_at > 5
        state = await explain(client, near(0))
        assert state["certificate"]["tau"] is not None
        await asyncio.sleep(1.5)
    async with gateway(**settings) as client:
        await until_ready(client)

        async def remembered() -> bool:
            return (await explain(client, near(0)))["certificate"]["tau"] is not None

        await until(remembered)
        await certified(client, start=served_at + 1)


async def test_auto_pauses_at_once_on_a_violation(gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A verified violation ends serving here although the shared state has not counted it yet."""
    settings = {"semantic_mode": "auto", "engine_price_ms": 10_000, "certificate_alpha": 0.2, "certificate_beta": 0.2}
    monkeypatch.setattr("cache.semantic.cost_gate.CostGate.lookup_share", 1.0)  # no text is left out by chance
    async with gateway(**settings) as client:
        await ready_with(client, BASE)
        number = await certified(client)
        monkeypatch.setattr("cache.semantic.sync.SYNC_INTERVAL_S", 1000.0)
        await asyncio.sleep(1.5)  # the exchange under way is over, and no other one comes
        number = await certified(client, start=number + 1)
        await asyncio.sleep(0.5)  # its verification is over
        wrong = f"{BASE} x"
        assert await tier(client, wrong) == "semantic"

        async def verified() -> bool:
            return bool((await explain(client, wrong))["paused"])

        await until(verified)
        shown = await explain(client, near(number))
        assert shown["threshold"]["violations"] == 0
        assert shown["certificate"]["tau"] is not None
        assert shown["tau"] is None
        assert await tier(client, near(number + 2)) == "miss"


async def test_entry_that_is_gone_is_a_miss(gateway: Callable[..., Any], redis: RunningRedis) -> None:
    """A candidate whose exact entry has expired is not served, whatever the index still holds."""
    async with gateway(semantic_mode="on", local_cache_mb=0) as client:
        await ready_with(client, BASE)
        entry = (await explain(client, BASE))["candidates"][0]["entry"]
        async with Redis.from_url(redis.url) as direct:
            assert await direct.delete(f"dv1:x:{entry}") == 1
        assert await tier(client, near(5)) == "miss"


async def test_a_very_large_request_is_looked_up_whole(gateway: Callable[..., Any]) -> None:
    """Some texts at a time, so that one request of hundreds neither times out nor holds up the others."""
    async with gateway(semantic_mode="on", local_cache_mb=0) as client:
        await ready_with(client, BASE)
        before = await lookups(client)
        texts = [f"{near(n)} w{40 + m}" for n in range(20) for m in range(20)]
        reply = await client.post("/v1/embeddings", json={"model": "tiny", "input": texts})
        assert reply.headers["x-cache"] in ("semantic", "mixed")
        assert await lookups(client) - before == len(texts)


async def lookups(client: httpx.AsyncClient) -> float:
    """How many texts were looked up in the semantic tier."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("dejavec_semantic_lookups_total"))


async def test_a_text_is_no_neighbour_of_itself(gateway: Callable[..., Any], redis: RunningRedis) -> None:
    """A text whose exact entry was lost before its index entry is computed, and proves nothing."""
    async with gateway(semantic_mode="observe", engine_price_ms=10_000, local_cache_mb=0) as client:
        await ready_with(client, BASE)
        entry = (await explain(client, BASE))["candidates"][0]["entry"]
        async with Redis.from_url(redis.url) as direct:
            for _ in range(3):
                assert await direct.delete(f"dv1:x:{entry}") == 1
                assert await tier(client, BASE) == "miss"
                await until_stored(direct, entry)
        assert await tier(client, near(1)) == "miss"

        async def labelled() -> bool:
            return bool((await explain(client, BASE))["certificate"]["certificate"]["labels"])

        await until(labelled)
        assert (await explain(client, BASE))["certificate"]["certificate"]["labels"] == 1


async def until_stored(direct: Redis, entry: str) -> None:
    """Until an exact entry is written back."""

    async def stored() -> bool:
        return bool(await direct.exists(f"dv1:x:{entry}"))

    await until(stored)


async def test_a_violation_is_found_when_the_served_entry_is_gone(
    gateway: Callable[..., Any], redis: RunningRedis, engine: StandInEngine
) -> None:
    """A check compares what was served, which may have expired meanwhile."""
    async with gateway(semantic_mode="on", local_cache_mb=0) as client:
        await ready_with(client, BASE)
        entry = (await explain(client, BASE))["candidates"][0]["entry"]
        engine.gate = asyncio.Event()
        assert await tier(client, f"{BASE} x") == "semantic"
        async with Redis.from_url(redis.url) as direct:
            assert await direct.delete(f"dv1:x:{entry}") == 1
        engine.gate.set()

        async def counted() -> bool:
            return bool((await explain(client, BASE))["threshold"]["violations"] == 1)

        await until(counted)


async def documents_and_index(direct: Redis, engine: StandInEngine) -> tuple[list[bytes], list[bytes]]:
    own = engine.fingerprint[:16].encode()
    documents = [key async for key in direct.scan_iter(b"dv1:t:" + own + b"*", count=1000)]
    names = [name for name in await direct.execute_command("FT._LIST") if own in name]
    return documents, names


async def test_index_that_vanishes_is_rebuilt_while_requests_go_on(
    gateway: Callable[..., Any], redis: RunningRedis, engine: StandInEngine
) -> None:
    """Dropped under traffic: misses meanwhile, then it is back with all its documents."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        async with Redis.from_url(redis.url, protocol=2) as direct:
            _, names = await documents_and_index(direct, engine)
            for name in names:
                await direct.execute_command("FT.DROPINDEX", name)
        number = iter(range(300))

        async def served() -> bool:
            return await tier(client, near(next(number))) == "semantic"

        assert not await served()
        await until(served)


async def test_damaged_documents_are_not_candidates(
    gateway: Callable[..., Any], redis: RunningRedis, engine: StandInEngine
) -> None:
    """A document with a vector of the wrong length, or none, is passed over; the request is answered."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        async with Redis.from_url(redis.url, protocol=2) as direct:
            documents, _ = await documents_and_index(direct, engine)
            for key in documents:
                await direct.hset(key, "e", b"short")
        assert await tier(client, near(6)) == "miss"


async def test_explain_shows_the_true_similarity_beside_the_predicted(gateway: Callable[..., Any]) -> None:
    """For any text: candidates, prediction, margin, tau and its reason, certificate, cost gate, the true cosine."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        shown = await explain(client, near(7), truth=True)
        assert shown["serve"] is True
        assert shown["best"]["true_similarity"] == pytest.approx(float(true(near(7)) @ true(BASE)), abs=1e-5)
        assert shown["best"]["z"] <= shown["best"]["predicted_similarity"]
        assert shown["threshold"]["tau"] == shown["tau"] == 0.92
        assert shown["cost_gate"]["reason"]
        assert "phase" in shown["certificate"]


async def test_without_a_static_embedding_there_is_no_semantic_tier(redis: RunningRedis) -> None:
    """An old bundle works as before, and explain names what is missing."""
    async with (
        StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
        running_gateway(
            engine.url, redis_url=redis.url, admin_token="operator-of-these-tests", semantic_mode="on"
        ) as client,
    ):
        await until_ready(client)
        assert await tier(client, BASE) == "miss"
        reply = await client.post("/admin/explain", json={"text": BASE}, headers=OPERATOR)
        assert reply.status_code == 404
        assert "static embedding" in reply.json()["error"]["message"]


async def learned_alignment(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await explain(client, BASE))["alignment"])


async def test_all_gateways_go_by_one_learned_alignment(gateway: Callable[..., Any], redis: RunningRedis) -> None:
    """What one gateway fits to its texts, another uses, also after a restart; a damaged one serves nothing."""
    async with gateway(semantic_mode="on") as first, gateway(semantic_mode="on") as second:
        await ready_with(first, BASE)
        await until_ready(second)
        for start in range(0, 200, 20):
            texts = [
                f"w{n % 17} w{n % 13 + 20} w{n % 7 + 40} w{n + 60} w{n + 61} w{n + 62}"
                for n in range(start, start + 20)
            ]
            reply = await first.post("/v1/embeddings", json={"model": "tiny", "input": texts})
            assert reply.status_code == 200

        async def both() -> bool:
            matrices = [await learned_alignment(client) for client in (first, second)]
            return all(one["is_current"] and one["texts"] >= 150 for one in matrices)

        await until(both)
    database = Redis.from_url(redis.url)
    for key in await database.keys("dv1:a:*"):
        await database.set(key, b"damaged")
    await database.aclose()
    async with gateway(semantic_mode="on") as third:
        await until_ready(third)

        async def given_up() -> bool:
            shown = await explain(third, BASE)
            return bool(shown["alignment"]["is_current"] and shown["certificate"]["version"] == 1)

        await ask(third, "w1 w2 w3 w4")
        await until(given_up)
        assert (await learned_alignment(third))["texts"] == 0


async def test_a_purge_forgets_what_was_learned(
    gateway: Callable[..., Any], redis: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, state and matrix of the purged namespace leave Redis once every gateway has left them."""
    monkeypatch.setattr("cache.semantic.sync.FORGET_AFTER_S", 0.0)
    database = Redis.from_url(redis.url)
    of_others = set(await database.keys("dv1:p:*"))
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        await ask(client, near(1))

        async def kept() -> set[Any]:
            return set(await database.keys("dv1:p:*")) - of_others

        await until(kept)
        before = await kept()
        assert (await client.post("/admin/purge", json={"namespace": "default"}, headers=OPERATOR)).status_code == 200

        async def gone() -> bool:
            return not before & await kept()

        await until(gone)
    await database.aclose()


@pytest.mark.parametrize(("said", "cost"), [("1000", "10.00 ms"), ("nonsense", None), ("0", None)])
async def test_a_text_costs_what_the_engine_computes(
    gateway: Callable[..., Any], engine: StandInEngine, said: str, cost: str | None
) -> None:
    """Not what it waits: texts of 6 and 14 tokens at 1,000 a second; where it cannot say, the time of the call."""
    engine.tokens_per_s = said
    async with gateway(semantic_mode="observe") as client:
        await ready_with(client)
        await ask(client, BASE)
        reason = (await explain(client, BASE))["cost_gate"]["reason"]
        words = [f"engine {cost}"] if cost else ["engine "]
        assert all(word in reason for word in words), reason
