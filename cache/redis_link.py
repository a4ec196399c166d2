"""One Redis connection pool behind one breaker: every call bounded in time, every failure the same exception.

Knows nothing of keys or values. A failed call raises `RedisAway`; callers turn it into a counted miss.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from cache.breaker import Breaker
from cache.metrics import EXACT_ERRORS

log = logging.getLogger("dejavec.cache")
T = TypeVar("T")


class RedisAway(Exception):
    """Redis did not answer this call in time, or at all."""


class RedisLink:
    """A pool, its time limit and its breaker. `redis` itself is for commands wrapped in `call`."""

    def __init__(self, url: str, timeout_s: float, max_connections: int = 16) -> None:
        self.timeout_s = timeout_s
        self.breaker = Breaker()
        self._said_away = False
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=max_connections,
            timeout=timeout_s,
            socket_timeout=5.0,  # a backstop: `call` enforces the real limit
            socket_connect_timeout=timeout_s,
            protocol=2,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self.redis: Redis = Redis.from_pool(pool)

    @property
    def write_timeout_s(self) -> float:
        """The limit of a write that nobody waits for."""
        return max(1.0, 4 * self.timeout_s)

    @property
    def state(self) -> str:
        """`ok`, or `away` while the breaker keeps calls back."""
        return "ok" if self.breaker.state == "closed" else "away"

    async def call(self, command: Callable[[Redis], Awaitable[T]], timeout_s: float | None = None) -> T:
        """Run one command within the time limit. Raises RedisAway, at once while the breaker is open."""
        if not self.breaker.allow():
            EXACT_ERRORS.labels("bypassed").inc()
            raise RedisAway("bypassed while Redis is away")
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            async with asyncio.timeout(timeout_s or self.timeout_s):
                result = await command(self.redis)
        except BaseException as error:
            # The caller has left: that proves nothing about Redis. redis-py may have made another error of it.
            if isinstance(error, asyncio.CancelledError) or task.cancelling() > cancels:
                self.breaker.abandoned()
                raise asyncio.CancelledError from error
            self._failed(error)
            if isinstance(error, TimeoutError | RedisError | OSError):
                raise RedisAway(type(error).__name__) from error
            raise
        self._succeeded()
        return result

    async def aclose(self) -> None:
        """Close the pool."""
        await self.redis.aclose()

    def _failed(self, error: BaseException) -> None:
        self.breaker.failed()
        reason = "timeout" if isinstance(error, TimeoutError) else "connection"
        EXACT_ERRORS.labels(reason).inc()
        if not self._said_away and self.breaker.state != "closed":
            self._said_away = True
            log.warning("Redis is away (%s): answering without it until it is back", type(error).__name__)

    def _succeeded(self) -> None:
        self.breaker.succeeded()
        if self._said_away:
            self._said_away = False
            log.info("Redis answers again")


def script(redis: Redis, source: str, keys: list[bytes], arguments: list[Any]) -> Awaitable[Any]:
    """Run a small Lua script over its keys."""
    result: Awaitable[Any] = redis.eval(source, len(keys), *keys, *arguments)
    return result


def command(redis: Redis, *words: Any) -> Awaitable[Any]:
    """Run a command that redis-py has no typed method for."""
    result: Awaitable[Any] = redis.execute_command(*words)  # type: ignore[no-untyped-call]
    return result


async def script_on_disk(redis: Redis, source: str, keys: list[bytes], arguments: list[Any]) -> tuple[Any, bool]:
    """As `script`, and whether what it wrote came to be on disk within two seconds.

    On a connection of its own: WAITAOF waits for its own writes only. False also while Redis' clock is behind the time
    of its last sync: it does not sync by the second until the clock has caught up.
    """
    async with redis.client() as connection:
        result = await script(connection, source, keys, arguments)
        return result, await _is_on_disk(connection)


async def _is_on_disk(redis: Redis) -> bool:
    """Wait for the AOF to be on disk; servers without AOF or before 7.2 have nothing to wait for."""
    try:
        on_disk, _replicas = await redis.waitaof(1, 0, 2000)
    except ResponseError:
        return True
    return bool(on_disk)
