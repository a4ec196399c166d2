"""The way to Redis, be it one server, a master that Sentinels name, or a cluster; every failure is `RedisAway`.

    call      one command; in a cluster on the server that has the key's slot
    on_each   the same for each of many keys: one command for all of them where one server has them all, in a cluster a
              pipeline for each server

In a cluster each server has its own time limit and breaker (`cache.redis_server`), so one that is gone costs its own
keys alone. MOVED and ASK are followed within the call's time limit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import AskError, ClusterCrossSlotError, MovedError, RedisError

from cache.metrics import EXACT_ERRORS
from cache.redis_pool import exchange
from cache.redis_server import Redirected, RedisAway, RedisServer, command, script, script_on_disk
from cache.redis_servers import LOOK_TIMEOUT_S, Servers, is_in_cluster
from cache.redis_url import TlsFiles, Topology, read_redis_url

__all__ = ["RedisAway", "RedisLink", "command", "exchange", "script", "script_on_disk"]

T = TypeVar("T")
Groups = dict[tuple[RedisServer, bool], list[int]]  # places of keys by their server, and whether it must be told ASKING

MAX_REDIRECTS: Final = 4


class RedisLink:
    """What a URL (`cache.redis_url`) leads to. Nothing is sent before the first call. Raises ValueError for the URL.

    `tls`: files for URLs that ask for TLS.
    """

    def __init__(self, url: str, timeout_s: float, max_connections: int = 16, tls: TlsFiles | None = None) -> None:
        self.timeout_s = timeout_s
        self._servers = Servers(read_redis_url(url).with_tls(tls or TlsFiles()), timeout_s, max_connections)

    @property
    def topology(self) -> Topology:
        """What the URL leads to; a plain one to a cluster, once a server has said that it is one of a cluster."""
        return self._servers.url.topology

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over servers."""
        return self._servers.url.topology is Topology.CLUSTER

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self._servers.url.has_tls

    @property
    def redis(self) -> Redis:
        """The client of the one server, without time limit and breaker. Raises RedisAway where there is none yet."""
        return self._servers.of(b"").redis

    @property
    def write_timeout_s(self) -> float:
        """The limit of a write that nobody waits for."""
        return max(1.0, 4 * self.timeout_s)

    @property
    def state(self) -> str:
        """`ok`; `away` while calls are kept back; `partly away` while those to some servers of a cluster are."""
        found = [server.state for server in self._servers.in_use]
        if "away" not in found:
            return "ok" if found else "away"
        return "partly away" if "ok" in found else "away"

    @property
    def servers(self) -> dict[str, str]:
        """The servers that have keys, by name, and the state of each."""
        return {server.name: server.state for server in self._servers.in_use}

    async def call(
        self, command: Callable[[Redis], Awaitable[T]], timeout_s: float | None = None, key: bytes = b""
    ) -> T:
        """Run one command within the time limit. Raises RedisAway, at once while the server's breaker is open.

        `key` is one of the keys that it names; in a cluster they must all be of one slot, and a command without a key
        may run on any server.
        """
        servers = self._servers
        if not servers.is_known:
            await servers.wait_until_known(self.timeout_s)
        server, is_asking = servers.of(key), False
        left_s = timeout_s or self.timeout_s
        deadline = time.monotonic() + left_s
        for _ in range(1 + MAX_REDIRECTS):
            try:
                return await server.call(command, left_s, is_asking)
            except RedisAway:
                servers.look_again()
                raise
            except MovedError as error:
                await servers.become_cluster()
                server, is_asking = servers.moved(error, server), False
            except AskError as error:
                server, is_asking = servers.named_in(error, server), True
            except Redirected as error:
                servers.look_again()
                raise RedisAway(type(error).__name__) from error
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
        raise RedisAway("redirected again and again")

    async def on_each(
        self,
        keys: Sequence[bytes],
        together: Callable[[Redis], Awaitable[Sequence[Any]]],
        apart: Callable[[int], Sequence[Any]],
        timeout_s: float | None = None,
    ) -> Sequence[Any]:
        """A reply for each key, None where its server did not answer. Raises RedisAway where none did, and for what is
        no list of as many replies: another command's, of a proxy that answers out of turn.

        `together` is one command over all keys, with a reply for each; `apart` gives the words of the command over the
        key at one place.
        """
        servers = self._servers
        if not servers.is_known:
            await servers.wait_until_known(self.timeout_s)
        if servers.only is not None:
            try:
                replies = await servers.only.call(together, timeout_s)
                if not isinstance(replies, list) or len(replies) != len(keys):
                    EXACT_ERRORS.labels("other").inc()
                    raise RedisAway("not a reply for each key")
                return replies
            except RedisAway:
                servers.look_again()
                raise
            except (MovedError, ClusterCrossSlotError):
                await servers.become_cluster()
            except Redirected as error:
                raise RedisAway(type(error).__name__) from error
        return await self._on_each_apart(keys, apart, timeout_s or self.timeout_s)

    async def look(self, command: Callable[[Redis], Awaitable[T]], timeout_s: float) -> list[T]:
        """Run one command on each server in use, for an observer: beside the breakers, and not where one keeps calls
        back. Servers that fail or do not answer in time are left out.
        """
        servers = [server for server in self._servers.in_use if server.state == "ok"]
        found = await asyncio.gather(*(server.look(command, timeout_s) for server in servers))
        return [one for one in found if one is not None]

    async def find(self) -> None:
        """Find out which servers there are, and whether a plain URL leads to a cluster. Raises RedisAway."""
        if self.topology is not Topology.SINGLE:
            await self._servers.wait_until_known(LOOK_TIMEOUT_S)
        elif await self.call(is_in_cluster, LOOK_TIMEOUT_S):
            await self._servers.become_cluster()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._servers.aclose()

    async def _on_each_apart(
        self, keys: Sequence[bytes], apart: Callable[[int], Sequence[Any]], timeout_s: float
    ) -> list[Any]:
        replies: list[Any] = [None] * len(keys)
        was_answered, deadline = False, time.monotonic() + timeout_s
        groups: Groups = {}
        for place, key in enumerate(keys):
            with suppress(RedisAway):
                groups.setdefault((self._servers.of(key), False), []).append(place)
        for _ in range(1 + MAX_REDIRECTS):
            left_s = deadline - time.monotonic()
            if not groups or left_s <= 0:
                break
            answers = await asyncio.gather(
                *(self._pipeline(server, asks, [apart(p) for p in at], left_s) for (server, asks), at in groups.items())
            )
            was_answered = was_answered or any(found is not None for found in answers)
            redirected: Groups = {}
            for ((server, _), places), found in zip(groups.items(), answers, strict=True):
                for place, reply in zip(places, found or (), strict=False):
                    self._take(reply, place, server, replies, redirected)
            groups = redirected
        if keys and not was_answered:
            raise RedisAway("no server answered")
        return replies

    def _take(self, reply: Any, place: int, server: RedisServer, replies: list[Any], redirected: Groups) -> None:
        """Keep a reply, or note where to ask next."""
        if isinstance(reply, AskError):  # to redis-py, a MovedError is one as well
            with suppress(RedisAway):
                if isinstance(reply, MovedError):
                    redirected.setdefault((self._servers.moved(reply, server), False), []).append(place)
                else:
                    redirected.setdefault((self._servers.named_in(reply, server), True), []).append(place)
        elif isinstance(reply, RedisError):
            EXACT_ERRORS.labels("other").inc()
            self._servers.look_again()
        else:
            replies[place] = reply

    async def _pipeline(
        self, server: RedisServer, is_asking: bool, commands: list[Sequence[Any]], timeout_s: float
    ) -> list[Any] | None:
        """A reply or an error for each command; None where the server did not answer."""

        async def run(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipeline:
                for words in commands:
                    if is_asking:
                        pipeline.execute_command("ASKING")
                    pipeline.execute_command(*words)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
                return replies[1::2] if is_asking else replies

        try:
            return await server.call(run, timeout_s)
        except RedisAway:
            self._servers.look_again()
            return None
