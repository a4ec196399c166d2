"""The semantic tier's life follows the engine's model: a change of model in mid-traffic loses and mixes nothing."""

import asyncio
import secrets
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from cache.exact import ExactTier
from cache.redis_link import RedisLink
from cache.semantic.policy import Policy
from cache.semantic.tier import SemanticSettings
from gateway.semantic_tiers import SemanticTiers
from tests.integration.test_semantic_tier import BASE, near, ready_with, tier, true, until, vector
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine, static_embedding_bytes


class Engine:
    """An engine set that only has a model."""

    current_model: Any = None

    def on_change(self, follow: Callable[[], None]) -> None:
        self.follow = follow

    def unfollow(self, follow: Callable[[], None]) -> None:
        self.follow = lambda: None

    def serve(self, fingerprint: str | None) -> Any:
        """Serve another model, or none that has a static embedding."""
        info = SimpleNamespace(fingerprint=fingerprint or "none", static_embedding_sha256="s" * 64)
        self.current_model = SimpleNamespace(
            info=info, static_embedding=static_embedding_bytes() if fingerprint else None
        )
        self.follow()
        return self.current_model


class Policies:
    """Policies that an operator can switch on and off."""

    is_any_on = True
    policy = Policy.of("on", 0.92, 0.05, 0.05, 0.92, 0.88, 0.98)

    def of(self, namespace: str) -> Policy:
        return self.policy

    def on_change(self, follow: Callable[[], None]) -> None:
        self.follow = follow

    def unfollow(self, follow: Callable[[], None]) -> None:
        self.follow = lambda: None


async def test_a_request_with_the_old_model_finds_no_tier_and_ends_none(link: RedisLink) -> None:
    """`of` only looks: asked for an old model, in whatever order, the tier of the new one stays the same."""
    engine, policies = Engine(), Policies()
    exact, settings = ExactTier(link, b"s" * 32, 60, 0), SemanticSettings(1, 60)
    tiers = SemanticTiers(link, b"s" * 32, exact, settings, policies, engine)  # type: ignore[arg-type]
    old = engine.serve(secrets.token_hex(16))
    assert tiers.of(old, "default") is not None
    new = engine.serve(secrets.token_hex(16))
    current = tiers.of(new, "default")
    assert current is not None
    assert tiers.of(old, "default") is None
    assert tiers.of(new, "default") is current
    policies.is_any_on = False
    policies.follow()
    assert tiers.of(new, "default") is None
    policies.is_any_on = True
    policies.follow()
    assert tiers.of(new, "default") not in (None, current)
    assert tiers.of(engine.serve(None), "default") is None
    await tiers.aclose()
    engine.serve(secrets.token_hex(16))
    assert tiers.of(engine.current_model, "default") is None


async def test_the_model_changes_in_mid_traffic(
    gateway: Callable[..., Any], engine: StandInEngine, redis: RunningRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request is answered with the right vector, the old model's unsent labels arrive, the new tier serves."""
    monkeypatch.setattr("cache.semantic.sync.SYNC_INTERVAL_S", 1000.0)  # only the final flush sends
    async with gateway(semantic_mode="on", local_cache_mb=0) as client, Redis.from_url(redis.url) as direct:
        await ready_with(client, BASE)
        before = set(await direct.keys("dv1:l:*"))
        assert await tier(client, near(1)) == "semantic"
        is_over = asyncio.Event()
        asking = [asyncio.create_task(keep_asking(client, worker, is_over)) for worker in range(2)]
        await asyncio.sleep(0.2)
        assert set(await direct.keys("dv1:l:*")) == before
        engine.fingerprint = secrets.token_hex(16)

        async def sent() -> bool:
            return bool(set(await direct.keys("dv1:l:*")) - before)

        await until(sent)
        is_over.set()
        assert all(await asyncio.gather(*asking))
        (stream,) = set(await direct.keys("dv1:l:*")) - before
        kinds = {entry[b"e"].partition(b'"k":"')[2][:4] for _, entry in await direct.xrange(stream)}
        assert b"hits" in kinds
        await ready_with(client, BASE)
        reply = await client.post(
            "/v1/embeddings", json={"model": "tiny", "input": near(2), "encoding_format": "base64"}
        )
        assert reply.headers["x-cache"] == "semantic"
        assert reply.headers["x-dejavec-fingerprint"] == engine.fingerprint


async def keep_asking(client: httpx.AsyncClient, worker: int, is_over: asyncio.Event) -> int:
    """Ask for texts that are near nothing until it is over; returns how many were answered."""
    answered = 0
    while not is_over.is_set():
        words = f"w{30 + worker} w{40 + answered % 40} w{90 + answered % 70} w{200 + answered % 130}"
        body = {"model": "tiny", "input": words, "encoding_format": "base64"}
        reply = await client.post("/v1/embeddings", json=body)
        assert reply.status_code == 200, reply.text
        if reply.headers["x-cache"] != "semantic":
            assert vector(reply).tobytes() == true(words).tobytes()
        answered += 1
        await asyncio.sleep(0.01)
    return answered
