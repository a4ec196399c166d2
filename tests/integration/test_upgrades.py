"""Two versions on one Redis, at an upgrade or a downgrade: what the other stored is read or ignored, never misread.

The values of earlier releases are kept in tests/stored_values; a version to come is this one with other formats.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from cache.authentication import SEAL_BYTES, Seal
from tests.free_ports import free_port
from tests.gateway_client import running_gateway, until_ready
from tests.integration.test_semantic_tier import OPERATOR, ask, true, until, vector
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine
from tests.stored_values import (
    ASKED,
    BASES,
    FINGERPRINT,
    KEY,
    LIVE,
    NAMESPACE,
    SECRET,
    SETTINGS,
    TEXTS,
    StoredValues,
    restore,
)

ROOT = Path(__file__).parents[2]
RELEASES = sorted((ROOT / "tests" / "stored_values").glob("*.json"))
KINDS = {"dv1:x", "dv1:t", "dv1:epoch", "dv1:live", "dv1:p", "dv1:l", "dv1:a", "dv1:secret-check"}
FIDELITY = 0.9  # the lowest in force, less what float16 is off
# This version with every format another: what a version to come could store.
LATER = """
from cache import authentication, keys
authentication.VERSION = b"\\x7f"
from cache.semantic import certifier
certifier.STATE_VERSION += 1
from deploy.cli import main
main()
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A Redis of this module's own: everything in it is replaced."""
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture
async def direct(redis: RunningRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis.url) as direct:
        await direct.flushall()
        yield direct


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=FINGERPRINT, has_static_embedding=True).running() as engine:
        yield engine


async def assert_sound(client: httpx.AsyncClient, text: str, known: set[bytes]) -> str:
    """A text's answer is its own vector, or as a semantic hit a known text's that is near enough; returns the tier."""
    reply = await ask(client, text, KEY)
    served, tier = vector(reply), reply.headers["x-cache"]
    if tier == "semantic":
        assert served.tobytes() in known
        assert served @ true(text) >= FIDELITY
    else:
        assert served.tobytes() == true(text).tobytes(), f"{tier} gave another vector"
    return str(tier)


async def shown(client: httpx.AsyncClient) -> dict[str, Any]:
    """Policy in force and what is learned, as operators see them."""
    reply = await client.get("/admin/thresholds", headers=OPERATOR)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["namespaces"][NAMESPACE]
    return found


def field(found: dict[str, Any], name: str) -> tuple[float, str]:
    one = found["in_force"][name]
    return one["value"], one["source"]


async def refused(client: httpx.AsyncClient, reason: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    mine = [one for one in lines if one.startswith("dejavec_cache_refused_total") and f'reason="{reason}"' in one]
    return sum(float(one.split()[-1]) for one in mine)


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_a_release_has_values_of_every_kind(release: Path) -> None:
    """So that the other tests show something."""
    stored = StoredValues.load(release)
    assert {":".join(key.split(":")[:2]) for key in stored.values} >= KINDS
    assert stored.version == release.stem
    assert stored.learned["hits"] > 0


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
async def test_stored_values_are_read_or_ignored(
    redis: RunningRedis, direct: Redis, engine: StandInEngine, release: Path
) -> None:
    """Vectors are those of their texts, live values and what was learned are the stored ones or none."""
    stored = StoredValues.load(release)
    await restore(direct, stored)
    known = {true(text).tobytes() for text in (*TEXTS, *ASKED)}
    async with running_gateway(engine.url, redis_url=redis.url, **SETTINGS) as client:
        await until_ready(client)
        tiers = await asyncio.gather(*(assert_sound(client, text, known) for text in TEXTS))
        assert set(tiers) <= {"exact", "semantic", "miss"}
        assert_as_stored(await shown(client), stored, more=len(TEXTS))
        near = [f"{base} w{350 + number}" for base in BASES for number in range(2)]
        await asyncio.gather(*(assert_sound(client, text, known) for text in near))
        assert_as_stored(await shown(client), stored, more=len(near) + len(TEXTS))


def assert_as_stored(found: dict[str, Any], stored: StoredValues, more: int = 0) -> None:
    """Each live value is the stored one or the configured one; counts go on from the stored ones or from nothing."""
    for name, value in LIVE.items():
        configured = {"semantic_fidelity": 0.92, "certificate_alpha": 0.05}[name]
        assert field(found, name) in [(value, "live"), (configured, "default")]
    learned = found["learned"]
    if learned is not None:
        assert 0.88 <= learned["tau"] <= 0.98
        for name in ("hits", "checked", "violations"):
            least = stored.learned[name]
            assert learned[name] in {*range(more + 1), *range(least, least + more + 1)}


@pytest.mark.parametrize("kind", sorted(KINDS - {"dv1:secret-check"}))
async def test_of_each_kind_another_versions_value_is_ignored(
    redis: RunningRedis, direct: Redis, engine: StandInEngine, kind: str
) -> None:
    """With the same secret, sealed as another version would, its bytes mean something else; or only just alike."""
    stored = StoredValues.load(RELEASES[-1])
    await restore(direct, stored)
    turns = itertools.count()
    for key in await direct.keys(f"{kind}:*" if kind != "dv1:live" else kind):
        await change(direct, key, kind, turns)
    known = {true(text).tobytes() for text in (*TEXTS, *ASKED)}
    async with running_gateway(engine.url, redis_url=redis.url, **SETTINGS) as client:
        await until_ready(client)
        asked = (*TEXTS[::8], *(f"{base} w360" for base in BASES))
        await asyncio.gather(*(assert_sound(client, text, known) for text in asked))
        assert_as_stored(await shown(client), stored, more=len(TEXTS))


# How each kind is sealed, and what its content is to mean in the other version.
SEALED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "dv1:x": ("exact", lambda content: content[:1] + content[:0:-1]),
    "dv1:p": ("state", lambda content: content.replace(b'"hits":', b'"hits":9')),
    "dv1:l": ("event", lambda content: content.replace(b'"k":"hits"', b'"k":"empty"')),
    "dv1:a": ("matrix", lambda content: content[::-1]),
    "dv1:live": ("live", lambda content: content.replace(b"0.93", b"0.85")),
}


async def change(direct: Redis, key: bytes, kind: str, turns: Iterator[int]) -> None:
    """Make a value one of another version; the first of a kind, and every other one, is sealed as one."""

    def other(value: bytes) -> bytes:
        changed = [b"\x7f" + value[1:], value[:-2], value + b"\x00", b"\x7f" + value]
        if kind in SEALED:
            as_sealed, meaning = SEALED[kind]
            content = meaning(value[SEAL_BYTES:])
            mac = Seal(bytes.fromhex(SECRET), as_sealed).mac(_name(key, kind), content)
            changed = [one for plain in changed for one in (b"\x7f" + mac + content, plain)]
        return changed[next(turns) % len(changed)]

    match await direct.type(key):
        case b"string":
            await direct.set(key, other(await direct.get(key)))
        case b"hash":
            held = await direct.hgetall(key)  # type: ignore[misc]
            name = (b"v", b"e", b"m")[next(turns) % 3]
            await direct.hset(key, name, other(held[name]))  # type: ignore[misc]
        case b"stream":
            events = await direct.xrange(key)
            await direct.delete(key)
            for event_id, fields in events:
                changed = {name: other(value) for name, value in fields.items()}
                await direct.xadd(key, changed, id=event_id)


def _name(key: bytes, kind: str) -> bytes:
    """What a value is sealed under."""
    last = key.rsplit(b":", 1)[1]
    return {"dv1:x": bytes.fromhex(last.decode()) if kind == "dv1:x" else b"", "dv1:live": key}.get(kind, last)


@asynccontextmanager
async def later_gateway(engine: StandInEngine, redis: RunningRedis, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A process of a version with other formats, on the same Redis with the same secret."""
    port = free_port()
    own = {
        f"DEJAVEC_{name.upper()}": one if isinstance(one, str) else json.dumps(one) for name, one in SETTINGS.items()
    }
    own |= {"DEJAVEC_REDIS_URL": redis.url, "DEJAVEC_REDIS_TIMEOUT_MS": "1000", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LATER, "gateway", "--port", str(port), "--engine-url", engine.url]
    with (folder / "later.log").open("ab") as log:
        process = _start(command, cwd=folder, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            async with asyncio.timeout(60):
                while not await _is_ready(client):
                    assert process.poll() is None, (folder / "later.log").read_text()
                    await asyncio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


def _start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **options)


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def test_two_versions_at_once_ignore_each_others_values(
    redis: RunningRedis, direct: Redis, engine: StandInEngine, tmp_path: Path
) -> None:
    """During a rolling upgrade, and back: every answer is right, and what an operator sets holds where it is read."""
    known: set[bytes] = set()
    async with running_gateway(engine.url, redis_url=redis.url, **SETTINGS) as before:
        await until_ready(before)
        await put(before, 0.93)
        async with later_gateway(engine, redis, tmp_path) as after:
            for turn in range(3):
                for text in BASES:
                    known.add(true(text).tobytes())
                    for client in (before, after):
                        await assert_sound(client, text, known)
                        if turn:
                            await assert_sound(client, f"{text} w{300 + turn}", known)
                    known.add(true(f"{text} w{300 + turn}").tobytes())
            assert await refused(before, "format") > 0
            assert await refused(after, "format") > 0
            assert field(await shown(before), "semantic_fidelity") == (0.93, "live")
            assert field(await shown(after), "semantic_fidelity") == (0.92, "default")
            await put(after, 0.96)
            await until(lambda: _sees(after, 0.96))
            assert field(await shown(before), "semantic_fidelity") == (0.93, "live")
        for text in BASES:  # the later version is gone again
            await assert_sound(before, text, known)
        assert field(await shown(before), "semantic_fidelity") == (0.93, "live")
    assert "Traceback" not in (tmp_path / "later.log").read_text()


async def put(client: httpx.AsyncClient, fidelity: float) -> None:
    body = {"namespace": NAMESPACE, "semantic_fidelity": fidelity}
    reply = await client.put("/admin/thresholds", json=body, headers=OPERATOR)
    assert reply.status_code == 200, reply.text


async def _sees(client: httpx.AsyncClient, fidelity: float) -> bool:
    return field(await shown(client), "semantic_fidelity") == (fidelity, "live")
