"""A stateful fuzz of what lies in Redis: values of all kinds are changed at random while two tenants ask.

Whatever was done, each answer is the engine's own vector of the text, or a semantic hit on one of the same tenant's
texts that is as near as it says, and no request or operator's question fails with a fault.
"""

import asyncio
import random
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests.gateway_client import running_gateway, until_ready
from tests.integration.test_semantic_tier import OPERATOR, ask, true, vector
from tests.running_redis import RunningRedis, running_redis
from tests.stand_in_engine import StandInEngine

T = TypeVar("T")

TENANTS = ("a", "b")
SETTINGS = {
    "semantic_mode": "on",
    "threshold_floor": 0.92,
    "api_keys": {f"key-of-namespace-{name}": {"namespace": name} for name in TENANTS},
    "admin_token": "operator-of-these-tests",
    "local_cache_mb": 0,
    "semantic_timeout_ms": 2000,
}
LEAST = 0.9  # the fidelity, less what a prediction through float16 may be off
BASES = [" ".join(f"w{20 * number + word}" for word in range(12)) for number in range(3)]
TEXTS = [f"{base}{more}" for base in BASES for more in ("", *(f" w{100 + one}" for one in range(6)))]


class StoredValues(RuleBasedStateMachine):
    """One gateway, its Redis, and somebody who changes what is stored."""

    redis: ClassVar[RunningRedis]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.open = AsyncExitStack()
        self.kept: dict[bytes, bytes] = {}
        self.asked: dict[str, set[bytes]] = {name: set() for name in TENANTS}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    @rule(tenant=st.sampled_from(TENANTS), texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4))
    def ask(self, tenant: str, texts: list[str]) -> None:
        """Computed, stored or near: never wrong."""
        for text in texts:
            self.run(self._ask(tenant, text))

    @rule(seed=st.integers(0, 2**32), times=st.integers(1, 12))
    def change(self, seed: int, times: int) -> None:
        """Somebody changes some values."""
        self.run(self._change(random.Random(seed), times))

    @rule(tenant=st.sampled_from(TENANTS))
    def purge(self, tenant: str) -> None:
        """Confirmed; what was stored before is not served after it."""
        reply = self.run(self.client.post("/admin/purge", json={"namespace": tenant}, headers=OPERATOR))
        assert reply.status_code == 200, reply.text
        self.asked[tenant].clear()

    @rule(tenant=st.sampled_from(TENANTS))
    def look(self, tenant: str) -> None:
        """Operators' questions are answered; Redis may have refused a value of another type just before."""
        for path in (f"/admin/calibration?namespace={tenant}", "/admin/thresholds", "/admin/stats"):
            reply = self.run(self.client.get(path, headers=OPERATOR))
            assert reply.status_code in (200, 404, 503), reply.text

    @rule()
    def restart(self) -> None:
        """A gateway that remembers nothing."""
        self.run(self._restart())

    @rule()
    def wait(self) -> None:
        """States are exchanged, the index is checked."""
        self.run(asyncio.sleep(0.7))

    def teardown(self) -> None:
        self.run(self.open.aclose())
        self.runner.close()

    async def _start(self) -> None:
        self.engine = await self.open.enter_async_context(StandInEngine(has_static_embedding=True).running())
        self.direct = await self.open.enter_async_context(Redis.from_url(self.redis.url))
        await self.direct.flushall()
        await self.direct.config_set("appendfsync", "always")  # a purge waits for the disk
        self.gateway = await self.open.enter_async_context(AsyncExitStack())
        await self._restart()

    async def _restart(self) -> None:
        await self.gateway.aclose()
        running = running_gateway(self.engine.url, redis_url=self.redis.url, **SETTINGS)
        self.client: httpx.AsyncClient = await self.gateway.enter_async_context(running)
        await until_ready(self.client)

    async def _ask(self, tenant: str, text: str) -> None:
        reply = await ask(self.client, text, f"key-of-namespace-{tenant}")
        served = vector(reply)
        if reply.headers["x-cache"] == "semantic":
            assert served.tobytes() in self.asked[tenant]
            assert served @ true(text) >= LEAST
        else:
            assert served.tobytes() == true(text).tobytes()
        self.asked[tenant].add(true(text).tobytes())

    async def _change(self, draw: random.Random, times: int) -> None:
        keys = sorted(await self.direct.keys("dv1:*"))
        for _ in range(times if keys else 0):
            key, other = draw.choice(keys), draw.choice(keys)
            with suppress(ResponseError):  # nothing changed, then
                await draw.choice((self._damage, self._swap, self._retype, self._replay))(draw, key, other)

    async def _damage(self, draw: random.Random, key: bytes, other: bytes) -> None:
        """A bit, the length, all of it, a field, an entry."""
        kind = await self.direct.type(key)
        if kind == b"string":
            await self.direct.set(key, damaged(draw, await self.direct.get(key) or b""), keepttl=True)
        elif kind == b"hash":
            held = await self.direct.hgetall(key)  # type: ignore[misc]
            field = draw.choice(sorted(held))
            await self.direct.hset(key, field, damaged(draw, held[field]))  # type: ignore[misc]
        elif kind == b"stream":
            for _, fields in await self.direct.xrange(key, count=3):
                await self.direct.xadd(key, {name: damaged(draw, one) for name, one in fields.items()})
        elif kind == b"zset":
            await self.direct.zadd(key, {draw.randbytes(4): draw.randrange(10**14)})

    async def _swap(self, draw: random.Random, key: bytes, other: bytes) -> None:
        """Two keys, or a field of theirs."""
        if await self.direct.type(key) == await self.direct.type(other) == b"hash":
            first, second = [await self.direct.hgetall(one) for one in (key, other)]  # type: ignore[misc]
            field = draw.choice(sorted(first.keys() & second.keys()) or [b"ns"])
            await self.direct.hset(key, field, second.get(field, b""))  # type: ignore[misc]
            await self.direct.hset(other, field, first.get(field, b""))  # type: ignore[misc]
        elif await self.direct.exists(key):
            await self.direct.copy(key, other, replace=True)  # type: ignore[arg-type]

    async def _retype(self, draw: random.Random, key: bytes, other: bytes) -> None:
        """Gone, or of another type."""
        await self.direct.delete(key)
        make = draw.choice(
            (
                lambda: self.direct.set(key, draw.randbytes(40)),
                lambda: self.direct.hset(key, "v", draw.randbytes(64)),
                lambda: self.direct.rpush(key, "x"),
                lambda: self.direct.zadd(key, {"x": 1}),
                lambda: self.direct.xadd(key, {"e": "{}"}),
                lambda: self.direct.exists(key),
            )
        )
        await make()  # type: ignore[misc]

    async def _replay(self, draw: random.Random, key: bytes, other: bytes) -> None:
        """Keep a value, or put a kept one back; an epoch would bring back what was purged, once nobody remembers."""
        if key.startswith(b"dv1:epoch:"):
            return
        if key in self.kept:
            await self.direct.restore(key, 0, self.kept[key], replace=True)  # type: ignore[arg-type]
        elif (content := await self.direct.dump(key)) is not None:  # type: ignore[arg-type]
            self.kept[key] = content


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Flipped bits, cut, longer, or anything."""
    how = draw.randrange(4)
    if how == 0 and content:
        place = draw.randrange(len(content))
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if how == 1:
        return content[: draw.randrange(len(content) + 1)]
    return content + draw.randbytes(8) if how == 2 else draw.randbytes(draw.randrange(100))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_stored_values_changed_at_random() -> None:
    """About half a minute."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        StoredValues.redis = stack.enter_context(running_redis(Path(folder)))
        chosen = settings(
            max_examples=4,
            stateful_step_count=20,
            deadline=None,
            phases=[Phase.generate],  # what fails is printed, not made smaller: each step is a real gateway's
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        run_state_machine_as_test(StoredValues, settings=chosen)
