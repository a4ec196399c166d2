"""Somebody who can write to Redis and has no key secret: no wrong vector, and each forged value a counted miss."""

import asyncio
import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from tests.gateway_client import until_ready
from tests.integration.test_semantic_tier import OPERATOR, ask, explain, true, until, vector
from tests.running_redis import RunningRedis, running_redis

KEYS = {f"key-of-namespace-{name}": {"namespace": name} for name in ("a", "b")}
SETTINGS = {"semantic_mode": "on", "api_keys": KEYS, "local_cache_mb": 0}
TEXTS = [" ".join(f"w{20 * number + word}" for word in range(12)) for number in range(4)]  # far from one another


def near(number: int, one: int = 0) -> str:
    """A text near TEXTS[number]."""
    return f"{TEXTS[number]} w{100 + one}"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A Redis of this module's own: everything in it may be changed."""
    folder: Path = tmp_path_factory.mktemp("redis")
    with running_redis(folder) as redis:
        yield redis


@pytest.fixture
async def direct(redis: RunningRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis.url) as direct:
        await direct.flushall()
        yield direct


async def ready(client: httpx.AsyncClient, direct: Redis, **texts: list[str]) -> dict[str, bytes]:
    """Each namespace's texts are stored and indexed; the keys of their documents, by text."""
    await until_ready(client)

    async def usable() -> bool:
        return (await explain(client, TEXTS[0], namespace="a"))["index"]["kind"] != "none"

    found: dict[str, bytes] = {}
    for namespace, some in texts.items():
        await ask(client, some[0], f"key-of-namespace-{namespace}", **{"x-cache-control": "exact-only"})
        await until(usable)
        for text in some:

            async def indexed(text: str = text, namespace: str = namespace) -> bool:
                await ask(client, text, f"key-of-namespace-{namespace}", **{"x-cache-control": "no-cache"})
                shown = (await explain(client, text, namespace=namespace))["candidates"]
                if not shown or shown[0]["static_similarity"] < 0.9999:
                    return False
                (found[text],) = await direct.keys(f"dv1:t:*:{shown[0]['entry']}")
                return bool(await direct.exists(exact_key(found[text])))

            await until(indexed)
    return found


def exact_key(document: bytes) -> bytes:
    return b"dv1:x:" + document.rsplit(b":", 1)[1]


async def refused(client: httpx.AsyncClient, value: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    mine = [line for line in lines if line.startswith("dejavec_cache_refused_total") and f'value="{value}"' in line]
    return sum(float(line.split()[-1]) for line in mine)


async def assert_computed(client: httpx.AsyncClient, text: str, key: str) -> None:
    """The engine's own vector, although a near one is stored."""
    reply = await ask(client, text, key)
    assert (reply.headers["x-cache"], vector(reply).tobytes()) == ("miss", true(text).tobytes())


async def test_another_tenants_documents(gateway: Callable[..., Any], direct: Redis) -> None:
    """Their scope changed, or copied whole beside one's own: they give nothing away."""
    async with gateway(**SETTINGS) as client:
        documents = await ready(client, direct, a=TEXTS[:2], b=TEXTS[2:3])
        assert (await ask(client, near(0), "key-of-namespace-a")).headers["x-cache"] == "semantic"
        tag = await direct.hget(documents[TEXTS[2]], "ns")  # type: ignore[misc]
        for text in TEXTS[:2]:
            await direct.hset(documents[text], "ns", tag)  # type: ignore[misc]
        before = await refused(client, "document")
        for number in range(2):
            await assert_computed(client, near(number, 1), "key-of-namespace-b")
        assert await refused(client, "document") > before


@pytest.mark.parametrize("fields", ["v", "e", "m", "ve", "vem"])
async def test_documents_with_fields_of_others(gateway: Callable[..., Any], direct: Redis, fields: str) -> None:
    """One's own documents, mixed up: no wrong vector."""
    async with gateway(**SETTINGS) as client:
        documents = [(await ready(client, direct, a=TEXTS))[text] for text in TEXTS]
        held = [await direct.hgetall(key) for key in documents]  # type: ignore[misc]
        for place, key in enumerate(documents):
            other = held[(place + 1) % len(held)]
            await direct.hset(key, mapping={name: other[name.encode()] for name in fields})  # type: ignore[misc]
        before = await refused(client, "document")
        for number in range(len(TEXTS)):
            await assert_computed(client, near(number), "key-of-namespace-a")
        assert await refused(client, "document") > before


async def test_a_document_that_points_a_text_at_another_ones_vector(gateway: Callable[..., Any], direct: Redis) -> None:
    """A made-up neighbour beside a real one would make the real one look as similar as one likes."""
    async with gateway(**SETTINGS) as client:
        documents = await ready(client, direct, a=TEXTS[:2])
        real = await direct.hgetall(documents[TEXTS[1]])  # type: ignore[misc]
        asked = np.asarray(true(near(3)), dtype="<f2").tobytes()
        made_up = documents[TEXTS[1]].rsplit(b":", 1)[0] + b":" + b"0" * 32
        # shorter than the real one, so that the real one is the better of the two
        like_real = (np.frombuffer(real[b"e"], dtype="<f2") * np.float16(0.9)).tobytes()
        await direct.hset(made_up, mapping={**real, b"v": asked, b"e": like_real})  # type: ignore[misc]
        await assert_computed(client, near(3), "key-of-namespace-a")


async def test_forged_exact_values(gateway: Callable[..., Any], direct: Redis) -> None:
    """With a checksum as it was before, numbers that are none, another key's value: computed and stored anew."""
    async with gateway(**SETTINGS) as client:
        documents = await ready(client, direct, a=TEXTS[:2])
        key, other = (exact_key(documents[text]) for text in TEXTS[:2])
        digest, length = bytes.fromhex(key.rsplit(b":", 1)[1].decode()), len(true(TEXTS[0]))
        wrong = np.full(length, length**-0.5, dtype="<f4")
        forged = [await direct.get(other), b"\x02" + bytes(16) + b"f" + wrong.tobytes()]
        for numbers in (wrong, np.full(length, np.nan, "<f4"), np.full(length, np.inf, "<f4")):
            payload = numbers.tobytes()
            forged.append(struct.pack("<BBI", 1, ord("f"), zlib.crc32(payload, zlib.crc32(digest))) + payload)
        for value in forged:
            await direct.set(key, value)
            before = await refused(client, "exact")
            reply = await ask(client, near(0), "key-of-namespace-a")  # its neighbour's vector is the forged one
            assert vector(reply).tobytes() in (true(near(0)).tobytes(), true(TEXTS[0]).tobytes())
            await direct.set(key, value)
            reply = await ask(client, TEXTS[0], "key-of-namespace-a")
            assert vector(reply).tobytes() == true(TEXTS[0]).tobytes()
            assert await refused(client, "exact") > before


async def test_states_and_matrices_of_others(gateway: Callable[..., Any], direct: Redis) -> None:
    """Another namespace's, or made up: a gateway that starts goes by neither."""
    async with gateway(**SETTINGS) as client:
        documents = await ready(client, direct, a=TEXTS[:1], b=TEXTS[1:2])
        tags = [str(await direct.hget(documents[text], "ns"), "ascii") for text in TEXTS[:2]]  # type: ignore[misc]
        for one in range(8):
            await ask(client, near(0, one), "key-of-namespace-a")

        async def counted() -> bool:
            return bool((await explain(client, TEXTS[0], namespace="a"))["threshold"]["hits"])

        await until(counted)
    state = await direct.get(f"dv1:p:{tags[0]}")
    assert state is not None
    content = json.loads(state[17:])
    content["state"]["threshold"]["tau"], content["saved_at"] = 0.88, 10**14
    for forged in (state, json.dumps(content).encode(), state[:17] + json.dumps(content).encode()):
        await direct.set(f"dv1:p:{tags[1]}", forged)
        async with gateway(**SETTINGS) as client:
            await until_ready(client)
            await ask(client, TEXTS[1], "key-of-namespace-b")
            before = await refused(client, "state")
            async with asyncio.timeout(120):
                while await refused(client, "state") == before:
                    await explain(client, TEXTS[1], namespace="b")
            shown = (await explain(client, TEXTS[1], namespace="b"))["threshold"]
            assert (shown["tau"], shown["hits"]) == (0.92, 0)


async def test_live_values_that_no_operator_set(gateway: Callable[..., Any], direct: Redis) -> None:
    """Forged ones change nothing; older ones give way to those in force."""

    async def change(value: float) -> bytes:
        body = {"namespace": "a", "semantic_fidelity": value}
        reply = await client.put("/admin/thresholds", json=body, headers=OPERATOR)
        assert reply.status_code == 200, reply.text
        return bytes(await direct.get("dv1:live"))

    async def fidelity() -> float:
        return float((await explain(client, TEXTS[0], namespace="a"))["fidelity"])

    async with gateway(**SETTINGS) as client:
        await ready(client, direct, a=TEXTS[:1])
        older, newer = await change(0.93), await change(0.97)
        assert await fidelity() == 0.97
        await direct.set("dv1:live", newer[:17] + newer[17:].replace(b"0.97", b"0.50"))
        before = await refused(client, "live")
        await until(lambda: _more(refused(client, "live"), before))
        assert await fidelity() == 0.97
        await direct.set("dv1:live", older)
        await until(lambda: _is(direct, "dv1:live", newer))
        assert await fidelity() == 0.97


async def _more(now: Any, before: float) -> bool:
    return bool(await now > before)


async def _is(direct: Redis, key: str, content: bytes) -> bool:
    return bool(await direct.get(key) == content)
