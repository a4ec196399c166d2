"""One Redis server: a connection pool behind a breaker, every call bounded in time, every failure the same exception.

Knows nothing of keys or values. A failed call raises `RedisAway`; callers turn it into a counted miss. What a server of
a cluster says of its slots (`Redirected`) is an answer, and goes through as it is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from cache.breaker import Breaker
from cache.metrics import EXACT_ERRORS
from cache.redis_pool import ConnectionPool

log = logging.getLogger("dejavec.cache")
T = TypeVar("T")

# A MovedError is an AskError to redis-py.
Redirected: Final = (AskError, ClusterCrossSlotError, ClusterDownError, TryAgainError)

# What redis-py, or the command's own reading, makes of a reply of another shape.
UNREADABLE: Final = (TypeError, ValueError, AttributeError, LookupError)


class RedisAway(Exception):
    """Redis did not answer this call in time, or at all."""


class AskingRedis(Redis):
    """A client for a slot that is on its way to this server: says so before each command. Has no pipelines."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.connection is None:
            async with self.client() as one:
                return await one.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        await super().execute_command("ASKING")  # type: ignore[no-untyped-call]
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class RedisServer:
    """A pool, its time limit and its breaker. `redis` itself is for commands wrapped in `call`.

    `options` are redis-py's, as `read_redis_url` gives them; `name` is for the log.
    """

    def __init__(
        self, options: dict[str, Any], timeout_s: float, name: str = "Redis", max_connections: int = 16
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.breaker = Breaker()
        self.host, self.port = str(options.get("host", "localhost")), int(options.get("port", 6379))
        self._said_away = False
        limits: dict[str, Any] = {
            "max_connections": max_connections,
            "timeout": timeout_s,
            "socket_timeout": None,  # `call` has the limit; this one costs a task for each command
            "socket_connect_timeout": timeout_s,
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        self._pool = ConnectionPool(**{**limits, **options})
        self.redis: Redis = Redis.from_pool(self._pool)

    @property
    def state(self) -> str:
        """`ok`, or `away` while the breaker keeps calls back."""
        return "ok" if self.breaker.state == "closed" else "away"

    async def call(
        self, command: Callable[[Redis], Awaitable[T]], timeout_s: float | None = None, is_asking: bool = False
    ) -> T:
        """Run one command, and what reads its reply, within the time limit. Raises RedisAway, at once while the breaker
        is open, and for a reply that cannot be read; `Redirected`.

        `is_asking`: for a slot that another server has said is on its way to this one.
        """
        if not self.breaker.allow():
            EXACT_ERRORS.labels("bypassed").inc()
            raise RedisAway("bypassed while Redis is away")
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        redis = AskingRedis(connection_pool=self._pool) if is_asking else self.redis
        try:
            async with asyncio.timeout(timeout_s or self.timeout_s):
                result = await command(redis)
        except BaseException as error:
            # The caller has left: that proves nothing about Redis. redis-py may have made another error of it.
            if isinstance(error, asyncio.CancelledError) or task.cancelling() > cancels:
                self.breaker.abandoned()
                raise asyncio.CancelledError from error
            if isinstance(error, Redirected):
                self._succeeded()
                raise
            self._failed(error)
            if isinstance(error, UNREADABLE):
                log.warning("%s gave a reply that cannot be read", self.name, exc_info=error)
            if isinstance(error, (TimeoutError, RedisError, OSError, *UNREADABLE)):
                raise RedisAway(type(error).__name__) from error
            raise
        self._succeeded()
        return result

    async def look(self, command: Callable[[Redis], Awaitable[T]], timeout_s: float) -> T | None:
        """Run one command beside the breaker; None where that fails, which counts for nothing."""
        try:
            async with asyncio.timeout(timeout_s):
                return await command(self.redis)
        except (RedisError, OSError, TimeoutError, *UNREADABLE):
            return None

    async def aclose(self) -> None:
        """Close the pool."""
        await self._pool.aclose()

    def _failed(self, error: BaseException) -> None:
        self.breaker.failed()
        reason = "timeout" if isinstance(error, TimeoutError) else "connection"
        EXACT_ERRORS.labels(reason).inc()
        if not self._said_away and self.breaker.state != "closed":
            self._said_away = True
            log.warning("%s is away (%s): answering without it until it is back", self.name, type(error).__name__)

    def _succeeded(self) -> None:
        self.breaker.succeeded()
        if self._said_away:
            self._said_away = False
            log.info("%s answers again", self.name)


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
