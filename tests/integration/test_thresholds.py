"""Policies a namespace, and changing them while running, over real HTTP, a real Redis and a real RediSearch index.

The stand-in engine and its texts are those of `test_semantic_tier`: `near(n)` has a true cosine of about 0.96 to BASE.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.gateway_client import until_ready
from tests.integration.test_semantic_tier import (
    BASE,
    OPERATOR,
    explain,
    near,
    ready_with,
    tier,
    true,
    until,
    until_indexed,
)
from tests.running_redis import RunningRedis, running_redis

KEYS = {"key-of-namespace-a": {"namespace": "a"}, "key-of-namespace-b": {"namespace": "b"}}
LIVE_KEY = "dv1:live"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RunningRedis]:
    """A Redis of the test's own: live values are one document for all that share a Redis."""
    with running_redis(tmp_path / "redis") as running:
        yield running


async def put(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.put("/admin/thresholds", json=body, headers=OPERATOR)


async def changed(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await put(client, **body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def learned_of(client: httpx.AsyncClient, namespace: str = "default") -> dict[str, Any]:
    reply = await client.get("/admin/thresholds", headers=OPERATOR)
    assert reply.status_code == 200, reply.text
    return dict(reply.json()["namespaces"][namespace])


async def value(client: httpx.AsyncClient, field: str, namespace: str = "default") -> tuple[Any, str]:
    shown = (await learned_of(client, namespace))["in_force"][field]
    return shown["value"], shown["source"]


async def fill(client: httpx.AsyncClient, *keys: str) -> None:
    """Wait for an index, and have BASE as a candidate in the namespace of each key."""
    await until_ready(client)
    for key in keys:
        namespace = KEYS[key]["namespace"]

        async def indexed(key: str = key, namespace: str = namespace) -> bool:
            await tier(client, BASE, key, **{"x-cache-control": "no-cache"})
            return bool((await explain(client, BASE, namespace=namespace))["candidates"])

        await until(indexed)


async def test_a_change_reaches_another_gateway_and_survives_restart(gateway: Callable[..., Any]) -> None:
    """What is put at one gateway decides at the other, without a restart; a gateway that starts later has it too."""
    async with gateway(semantic_mode="on", local_cache_mb=0) as first:
        await ready_with(first, BASE)
        async with gateway(semantic_mode="on", local_cache_mb=0) as second:
            await until_ready(second)
            await until_indexed(second, BASE)
            assert await tier(second, near(1)) == "semantic"
            reply = await changed(first, namespace="default", semantic_mode="off")
            assert reply["in_force"]["semantic_mode"] == {"value": "off", "source": "live"}
            assert await tier(first, near(2)) == "miss"
            number = iter(range(3, 380))

            async def followed() -> bool:
                return await tier(second, near(next(number))) == "miss"

            await until(followed)
    async with gateway(semantic_mode="on", local_cache_mb=0) as third:
        await until_ready(third)
        assert await value(third, "semantic_mode") == ("off", "live")
        assert await tier(third, f"{BASE} w390") == "miss"
        reply = await changed(third, namespace="default", semantic_mode=None)
        assert reply["in_force"]["semantic_mode"] == {"value": "on", "source": "configuration"}
        reply = await third.get("/admin/thresholds", headers=OPERATOR)
        assert [(one["old"], one["new"]) for one in reply.json()["changes"]] == [("off", "on"), ("on", "off")]


async def test_each_namespace_has_its_own_fidelity(gateway: Callable[..., Any]) -> None:
    """`x-min-fidelity` and the threshold's bounds are the namespace's own; a change of one never moves the other."""
    namespaces = {"a": {"semantic_fidelity": 0.93}, "b": {"similarity_threshold": 0.97}}
    async with gateway(semantic_mode="on", api_keys=KEYS, namespaces=namespaces, local_cache_mb=0) as client:
        await fill(client, "key-of-namespace-a", "key-of-namespace-b")
        assert (await explain(client, BASE, namespace="a"))["fidelity"] == 0.93
        assert await tier(client, near(1), "key-of-namespace-a", **{"x-min-fidelity": "0.925"}) == "semantic"
        assert await tier(client, near(2), "key-of-namespace-a", **{"x-min-fidelity": "0.94"}) == "miss"
        best = (await explain(client, near(3), namespace="b"))["best"]
        assert 0.92 < best["z"] < 0.97
        assert await tier(client, near(3), "key-of-namespace-b") == "miss"

        before = await learned_of(client, "b")
        await changed(client, namespace="a", semantic_fidelity=0.9, threshold_floor=0.91, threshold_ceiling=0.93)
        assert await learned_of(client, "b") == before
        assert await tier(client, near(4), "key-of-namespace-a", **{"x-min-fidelity": "0.94"}) == "miss"
        assert await tier(client, near(5), "key-of-namespace-a") == "semantic"
        await changed(client, all=True, similarity_threshold=0.91)
        assert await value(client, "similarity_threshold", "b") == (0.97, "configuration")


@pytest.mark.parametrize(
    ("everywhere", "own"), [("off", {"a": {"semantic_mode": "on"}}), ("on", {"b": {"semantic_mode": "off"}})]
)
async def test_one_namespace_may_be_on_alone(gateway: Callable[..., Any], everywhere: str, own: dict[str, Any]) -> None:
    """The tier is there for the namespace that wants it, and only for that one."""
    async with gateway(semantic_mode=everywhere, api_keys=KEYS, namespaces=own, local_cache_mb=0) as client:
        await fill(client, "key-of-namespace-a")
        await tier(client, BASE, "key-of-namespace-b")
        assert await tier(client, near(1), "key-of-namespace-a") == "semantic"
        assert await tier(client, near(1), "key-of-namespace-b") == "miss"
        reply = await client.post("/admin/explain", json={"text": BASE, "namespace": "b"}, headers=OPERATOR)
        assert reply.status_code == 404
        assert (await learned_of(client, "b"))["learned"] is None
        assert (await learned_of(client, "a"))["learned"]["serving_from"] == 0.92


async def test_a_tier_that_was_off_everywhere_can_be_switched_on(gateway: Callable[..., Any]) -> None:
    """Live, without a restart; and off again."""
    async with gateway(semantic_mode="off", local_cache_mb=0) as client:
        await until_ready(client)
        assert await tier(client, BASE) == "miss"
        await changed(client, all=True, semantic_mode="on")
        await ready_with(client)
        await tier(client, BASE, **{"x-cache-control": "no-cache"})
        number = iter(range(380))

        async def served() -> bool:
            return await tier(client, near(next(number))) == "semantic"

        await until(served)
        await changed(client, all=True, semantic_mode=None)
        assert await tier(client, f"{BASE} w390") == "miss"


async def test_a_change_of_fidelity_says_that_certification_starts_anew(gateway: Callable[..., Any]) -> None:
    """The note names the namespaces it concerns, and those that keep a value of their own."""
    async with gateway(api_keys=KEYS, namespaces={"b": {"semantic_fidelity": 0.9}}) as client:
        await until_ready(client)
        reply = await changed(client, all=True, semantic_fidelity=0.94)
        assert "start anew in: a." in reply["note"]
        assert "semantic_fidelity keep: b." in reply["note"]
        assert "anew" not in (await changed(client, namespace="a", threshold_floor=0.8))["note"]
        reply = await changed(client, namespace="a", semantic_mode="on")  # another margin, so another z
        assert "start anew in: a." in reply["note"]


async def test_bounds_move_tau(gateway: Callable[..., Any]) -> None:
    """tau goes into new bounds at once, and to a new similarity_threshold."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        assert (await explain(client, BASE))["tau"] == 0.92
        await changed(client, namespace="default", similarity_threshold=0.95)
        assert (await explain(client, BASE))["tau"] == 0.95
        await changed(client, namespace="default", similarity_threshold=0.9, threshold_ceiling=0.91)
        shown = await explain(client, BASE)
        assert shown["tau"] == 0.91  # as near the fidelity, 0.92, as the ceiling lets it
        assert shown["threshold"]["reason"] == "similarity_threshold was set"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"namespace": "default", "semantic_fidelity": 2}, "semantic_fidelity"),
        ({"namespace": "default", "semantic_fidelity": "0.95"}, "semantic_fidelity"),
        ({"namespace": "default", "semantic_mode": "loud"}, "semantic_mode"),
        ({"namespace": "default", "fidelity": 0.9}, "fidelity"),
        ({"namespace": "default", "threshold_floor": 0.95}, "threshold_floor"),
        ({"namespace": "default", "certificate_alpha": [1]}, "certificate_alpha"),
        ({"namespace": "default"}, "semantic_mode"),
        ({"namespace": "Team A", "semantic_fidelity": 0.9}, "namespace"),
        ({"namespace": "nobody", "semantic_fidelity": 0.9}, "namespace"),
        ({"semantic_fidelity": 0.9}, "namespace"),
        ({"namespace": "default", "all": True, "semantic_fidelity": 0.9}, "namespace"),
        ([], None),
    ],
)
async def test_a_wrong_body_is_refused_by_name(gateway: Callable[..., Any], body: Any, param: str | None) -> None:
    """4xx naming the field; nothing is changed."""
    async with gateway() as client:
        await until_ready(client)
        reply = await client.put("/admin/thresholds", json=body, headers=OPERATOR)
        assert reply.status_code in (400, 422), reply.text
        assert reply.json()["error"]["param"] == param
        reply = await client.put("/admin/thresholds", content=b"{nonsense", headers=OPERATOR)
        assert 400 <= reply.status_code < 500
        assert (await client.get("/admin/thresholds", headers=OPERATOR)).json()["changes"] == []


async def test_without_the_token_nothing_is_shown_or_changed(gateway: Callable[..., Any]) -> None:
    """A wrong token or none is a 401; where no admin_token is set the routes are closed."""
    calls = [("GET", "/admin/thresholds"), ("PUT", "/admin/thresholds"), ("GET", "/admin/calibration")]
    for status, headers, settings in (
        (401, {}, {}),
        (401, {"authorization": "Bearer wrong"}, {}),
        (403, OPERATOR, {"admin_token": None}),
    ):
        async with gateway(**settings) as client:
            for method, path in calls:
                body = {"all": True, "semantic_mode": "on"}
                reply = await client.request(method, path, json=body, headers=headers)
                assert reply.status_code == status, (method, path)


async def test_redis_away_refuses_a_change_and_keeps_what_is_in_force(
    gateway: Callable[..., Any], redis: RunningRedis
) -> None:
    """503 with a code; the old values stay, here and after Redis is back; then a change goes through."""
    async with gateway(semantic_mode="on") as client:
        await ready_with(client, BASE)
        await changed(client, namespace="default", semantic_fidelity=0.93)
        redis.kill()
        reply = await put(client, namespace="default", semantic_fidelity=0.9, similarity_threshold=0.9)
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "change_unconfirmed"
        assert await value(client, "semantic_fidelity") == (0.93, "live")
        assert await value(client, "similarity_threshold") == (0.92, "default")
        reply = await client.get("/admin/calibration", headers=OPERATOR)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "state_unavailable")
        await asyncio.to_thread(redis.restart)

        async def accepted() -> bool:
            return (await put(client, namespace="default", semantic_fidelity=0.91)).status_code == 200

        await until(accepted)
        assert await value(client, "similarity_threshold") == (0.92, "default")
    async with gateway(semantic_mode="on") as client:
        await until_ready(client)
        assert await value(client, "semantic_fidelity") == (0.91, "live")


@pytest.mark.parametrize("kind", ["text", "hash", "large"])
async def test_a_damaged_record_is_ignored(
    gateway: Callable[..., Any], redis: RunningRedis, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; requests go on under what was in force; a new gateway serves no semantic hits; a change mends."""
    caplog.set_level(logging.WARNING)
    async with gateway(semantic_mode="on", local_cache_mb=0) as client:
        await ready_with(client, BASE)
        await changed(client, namespace="default", semantic_fidelity=0.93)
        async with Redis.from_url(redis.url) as direct:
            await direct.delete(LIVE_KEY)
            if kind == "hash":
                await direct.hset(LIVE_KEY, "a", "b")
            else:
                await direct.set(LIVE_KEY, b"\xff{nonsense" if kind == "text" else b"[" + b"1," * 200_000)

        async def said() -> bool:
            return any("cannot be read" in message for message in caplog.messages)

        await until(said)
        assert await value(client, "semantic_fidelity") == (0.93, "live")
        assert await tier(client, near(1)) == "semantic"
        assert (await client.get("/ready")).json()["redis"] == "ok"
        async with gateway(semantic_mode="on") as other:
            await until_ready(other)
            assert await tier(other, near(2)) == "miss"
            await changed(client, namespace="default", similarity_threshold=0.93)

            async def mended() -> bool:
                return await value(other, "similarity_threshold") == (0.93, "live")

            await until(mended)
            await until_indexed(other, BASE)
            assert await tier(other, near(3)) == "semantic"
        async with Redis.from_url(redis.url) as direct:
            assert b"0.93" in await direct.get(LIVE_KEY)
            assert await direct.ttl(LIVE_KEY) == -1


async def test_calibration_shows_the_labels(gateway: Callable[..., Any], redis: RunningRedis) -> None:
    """Misses and checked hits become a table that every gateway sees; it outlives a change of fidelity."""
    async with gateway(semantic_mode="observe", engine_price_ms=10_000) as client:
        await ready_with(client, BASE)
        reply = await client.get("/admin/calibration", headers=OPERATOR)
        assert reply.status_code == 200
        for number in range(20):
            await tier(client, near(number))
        wrong = f"{BASE} x"
        await tier(client, wrong)

        async def labels() -> dict[str, Any]:
            return dict((await client.get("/admin/calibration", headers=OPERATOR)).json())

        async def counted() -> bool:
            return (await labels())["labels"] >= 21

        await until(counted)
        shown = await labels()
        assert sum(one["weight"] for one in shown["bins"]) + shown["without_candidate"] == shown["lookups"]
        assert shown["tau"] is None
        assert shown["reading"].startswith("nothing is served; at tau")
        loose, strict = shown["curve"][0], shown["curve"][-1]
        assert 0.8 <= loose["reused"] <= 1
        assert 0 < loose["violations"]["0.9"] < 0.2  # the one that turns around
        assert strict["reused"] <= loose["reused"]
        means = [one["mean_true_similarity"] for one in shown["bins"] if one["z_from"] >= 0.8]
        assert all(-1 <= mean <= 1 for mean in means)
        await changed(client, namespace="default", semantic_fidelity=0.95, semantic_mode="auto")

        async def kept() -> bool:
            await tier(client, f"{BASE} w395")
            shown = await labels()
            return bool(shown["fidelity"] == 0.95 and shown["labels"] >= 21)

        await until(kept)
        assert "below 0.95" in (await labels())["reading"]
        await changed(client, namespace="default", semantic_mode="on")  # another margin: z means something else

        async def anew() -> bool:
            return bool((await labels())["labels"] < 21)

        await until(anew)
    assert float(true(near(1)) @ true(BASE)) > 0.92  # what the texts above rest on


async def test_calibration_of_an_unknown_namespace_is_refused(gateway: Callable[..., Any]) -> None:
    """404 naming those there are; 404 with all reasons that there may be where the tier is off."""
    async with gateway(semantic_mode="off") as client:
        await until_ready(client)
        for namespace in ("nobody", "default"):
            reply = await client.get("/admin/calibration", params={"namespace": namespace}, headers=OPERATOR)
            assert reply.status_code == 404
        assert "redis_url is a cluster (set semantic_redis_url" in reply.text
        reply = await client.get("/admin/calibration", params={"namespace": "A b"}, headers=OPERATOR)
        assert reply.json()["error"]["param"] == "namespace"


async def test_who_asks_is_known_before_the_body_is_read(gateway: Callable[..., Any]) -> None:
    """Under /admin nobody without the token makes the gateway read or parse anything."""
    async with gateway() as client:
        await until_ready(client)
        for headers in ({}, {"authorization": "Bearer wrong"}):
            for body in (b"{", b" " * (2 * 1024 * 1024)):
                reply = await client.put("/admin/thresholds", content=body, headers=headers)
                assert reply.status_code == 401
                assert set(reply.json()) == {"error"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"{", {}, 400, "not JSON"),
        (b" " * (2 * 1024 * 1024), {}, 413, "1 MiB"),
        (b"{}", {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    ],
)
async def test_an_operators_body_is_small_json(
    gateway: Callable[..., Any], body: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    """Whatever is wrong with it is said in the envelope, and the next request works."""
    async with gateway() as client:
        await until_ready(client)
        reply = await client.put("/admin/thresholds", content=body, headers={**OPERATOR, **headers})
        assert reply.status_code == status
        assert word in reply.json()["error"]["message"]
        good = b'{"namespace": "default", "semantic_fidelity": 0.93}'
        assert (await client.put("/admin/thresholds", content=good, headers=OPERATOR)).status_code == 200


async def test_a_body_of_unsaid_length_is_bounded(gateway: Callable[..., Any]) -> None:
    """A chunked body has no length to look at: it is read up to the limit and no further."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    async with gateway() as client:
        await until_ready(client)
        reply = await client.post("/admin/purge", content=chunks(), headers=OPERATOR)
        assert reply.status_code == 413
        assert (await client.get("/health")).status_code == 200


async def test_purging_a_namespace_that_is_not_there_is_refused(gateway: Callable[..., Any]) -> None:
    """A misspelt name must not look like a purge."""
    async with gateway() as client:
        await until_ready(client)
        reply = await client.post("/admin/purge", json={"namespace": "defualt"}, headers=OPERATOR)
        assert (reply.status_code, reply.json()["error"]["param"]) == (404, "namespace")
