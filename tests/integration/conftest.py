"""A gateway that reuses by meaning, for the modules that have no engine or gateway of their own."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cache.redis_link import RedisLink
from tests.gateway_client import running_gateway
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine


@pytest.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(fingerprint=secrets.token_hex(16), has_static_embedding=True).running() as engine:
        yield engine


@pytest.fixture
async def link(redis: RunningRedis) -> AsyncIterator[RedisLink]:
    link = RedisLink(redis.url, timeout_s=2.0)
    yield link
    await link.aclose()


@pytest.fixture
def gateway(engine: StandInEngine, redis: RunningRedis) -> Callable[..., Any]:
    """A gateway with this engine and Redis, and settings of the test's own."""

    def start(**settings: Any) -> Any:
        chosen = {
            "redis_url": redis.url,
            "admin_token": "operator-of-these-tests",
            "semantic_timeout_ms": 2000,
            **settings,
        }
        return running_gateway(engine.url, **chosen)

    return start
