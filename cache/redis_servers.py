"""Which servers there are behind a URL, and which of them has a key's slot.

A cluster tells with CLUSTER SLOTS, and with MOVED and ASK; Sentinels name the master. What is known is looked up anew
in the background, by one task and at most every `LOOK_AGAIN_S`, whenever a caller says that it seems wrong. Nothing is
read from replicas: they may lag behind.
"""

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, ResponseError

from cache.redis_server import Redirected, RedisAway, RedisServer, command
from cache.redis_url import Address, RedisUrl, Topology
from common.tasks import cancel_and_wait

log = logging.getLogger("dejavec.cache")

SLOTS: Final = 16_384
LOOK_AGAIN_S: Final = 0.5
LOOK_TIMEOUT_S: Final = 1.0  # of one server that is asked
MAX_SERVERS: Final = 1000
MAX_CONNECTIONS_IN_CLUSTER: Final = 8  # to each: two look-ups and one write at a time, epochs, live values
ABSENT_FOR_S: Final = 60.0  # connections to a server that has left are closed when its last calls are surely over


class Servers:
    """The servers of a URL that has been read; each has a pool, a time limit and a breaker of its own."""

    def __init__(self, url: RedisUrl, timeout_s: float, max_connections: int) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._by_address: dict[Address, RedisServer] = {}
        self._seen_at: dict[Address, float] = {}
        self._sentinels = [
            RedisServer(_at(url.sentinel_options or {}, place), LOOK_TIMEOUT_S, "a Sentinel", 2)
            for place in (url.addresses if url.topology is Topology.SENTINEL else ())
        ]
        self.only: RedisServer | None = None  # the one server, or the master, where there is one
        self._owners: list[RedisServer | None] = []  # of each slot, in a cluster; empty before it is known
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = -LOOK_AGAIN_S
        self._said_role_refused = False
        if url.topology is Topology.SINGLE:
            self.only = RedisServer(url.options, timeout_s, "Redis", max_connections)

    @property
    def is_known(self) -> bool:
        """Whether there is any server to send a command to."""
        return self.only is not None or bool(self._owners)

    @property
    def in_use(self) -> list[RedisServer]:
        """Those that have keys."""
        return [self.only] if self.only is not None else list({one for one in self._owners if one is not None})

    def of(self, key: bytes) -> RedisServer:
        """The server that has a key; without a key any one, by preference one that answers. Raises RedisAway."""
        if self.only is not None:
            return self.only
        if not self._owners:
            raise RedisAway("no server is known yet")
        if not key:
            return random.choice([one for one in self.in_use if one.state == "ok"] or self.in_use)  # noqa: S311
        server = self._owners[key_slot(key)]
        if server is None:
            self.look_again()
            raise RedisAway("no server has this key's slot")
        return server

    def moved(self, error: MovedError, said_by: RedisServer) -> RedisServer:
        """Go by what a server said of a slot, until all are looked up. Raises RedisAway."""
        server = self.named_in(error, said_by)
        if self._owners:
            self._owners[error.slot_id % SLOTS] = server
        self.look_again()
        return server

    def named_in(self, error: AskError, said_by: RedisServer) -> RedisServer:
        """The server that MOVED or ASK leads to. Raises RedisAway."""
        return self._at((error.host or said_by.host, error.port))  # no host: the one that said so

    async def become_cluster(self) -> None:
        """The server of a plain URL has turned out to be one of a cluster. Raises RedisAway."""
        if self.url.topology is Topology.SINGLE and self.only is not None:
            if "path" in self.url.options:
                raise RedisAway("a cluster is not reached through a socket")
            address = (self.only.host, self.only.port)
            self.url = RedisUrl(Topology.CLUSTER, (address,), self.url.options)
            self._by_address[address], self._seen_at[address], self.only = self.only, time.monotonic(), None
        if not self._owners:
            await self.wait_until_known(self._timeout_s)

    async def wait_until_known(self, timeout_s: float) -> None:
        """Raises RedisAway where it does not become known in time, or has just not become known."""
        self.look_again()
        if self._looking is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._looking)
        if not self.is_known:
            raise RedisAway("no server is known yet")

    def look_again(self) -> None:
        """Look up in the background which server has what, unless that was done just now."""
        if self.url.topology is Topology.SINGLE or self._looking is not None:
            return
        if time.monotonic() - self._looked_at >= LOOK_AGAIN_S:
            self._looking = asyncio.create_task(self._look())

    async def aclose(self) -> None:
        """Close all connections."""
        if self._looking is not None:
            await cancel_and_wait([self._looking])
        for server in {*self._by_address.values(), *self._sentinels, *self.in_use}:
            await server.aclose()

    async def _look(self) -> None:
        try:
            await (self._find_master() if self.url.topology is Topology.SENTINEL else self._find_owners())
            await self._close_absent()
        except Exception:
            log.exception("the servers behind redis_url could not be looked up")
        finally:
            self._looked_at = time.monotonic()
            self._looking = None

    async def _find_owners(self) -> None:
        """Ask one server after the other, those first that answered last, until one knows."""
        known = self.in_use
        random.shuffle(known)
        known.sort(key=lambda server: server.state != "ok")
        for server in dict.fromkeys((*known, *(self._at(address) for address in self.url.addresses))):
            try:
                owners = self._owners_in(await server.call(_slots, LOOK_TIMEOUT_S), server)
            except (RedisAway, *Redirected):
                continue
            if any(owners):
                self._owners = owners
                return

    def _owners_in(self, reply: Any, said_by: RedisServer) -> list[RedisServer | None]:
        """The owner of each slot by a reply to CLUSTER SLOTS; nothing where it is none. Raises RedisAway."""
        owners: list[RedisServer | None] = [None] * SLOTS
        try:
            for first, last, (host, port, *_), *_replicas in reply:
                if 0 <= first <= last < SLOTS:
                    owner = self._at((str(host or b"", "ascii") or said_by.host, port))
                    owners[first : last + 1] = [owner] * (last + 1 - first)
        except (TypeError, ValueError):
            return []
        return owners

    async def _find_master(self) -> None:
        for sentinel in random.sample(self._sentinels, len(self._sentinels)):
            try:
                reply = await sentinel.call(lambda redis: command(redis, *MASTER_OF, self.url.master))
                server = self._at((str(reply[0], "ascii"), int(reply[1])))
            except (RedisAway, TypeError, ValueError):
                continue
            if await self._is_master(server):
                self.only = server
                return

    async def _is_master(self, server: RedisServer) -> bool:
        """A Sentinel may not have noticed yet. Where no master is known, one that cannot be asked is taken for it, and
        so is one that may not be asked.
        """
        try:
            role = await server.call(_role, LOOK_TIMEOUT_S)
        except RedisAway:
            return self.only is None
        if role is None and not self._said_role_refused:
            self._said_role_refused = True
            log.warning(
                "%s refuses ROLE: the Sentinels alone decide which server is used as the master; add +role to the user",
                server.name,
            )
        return role in (None, b"master")

    async def _close_absent(self) -> None:
        now, begin = time.monotonic(), {*self.url.addresses}
        for address, server in list(self._by_address.items()):
            if server in self.in_use or address in begin:
                self._seen_at[address] = now
            elif now - self._seen_at[address] > ABSENT_FOR_S:
                del self._by_address[address], self._seen_at[address]
                await server.aclose()

    def _at(self, address: Address) -> RedisServer:
        server = self._by_address.get(address)
        if server is None:
            if len(self._by_address) >= MAX_SERVERS:
                raise RedisAway("more servers than a cluster has")
            name = f"Redis at {address[0]}:{address[1]}"
            connections = self._max_connections
            if self.url.topology is Topology.CLUSTER:
                connections = min(connections, MAX_CONNECTIONS_IN_CLUSTER)
            server = RedisServer(_at(self.url.options, address), self._timeout_s, name, connections)
            self._by_address[address], self._seen_at[address] = server, time.monotonic()
        return server


MASTER_OF: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


async def is_in_cluster(redis: Redis) -> bool:
    """Whether this server is one of a cluster; False where it may not be asked: it says so when a key is elsewhere."""
    try:
        reply = await command(redis, "INFO", "cluster")
    except ResponseError:
        return False
    return bool(reply.get("cluster_enabled"))


async def _role(redis: Redis) -> bytes | None:
    """What a server takes itself for, such as `master`; None where that may not be asked."""
    try:
        reply = await command(redis, b"ROLE")
    except ResponseError:
        return None
    return bytes(reply[0]) if reply else b""


async def _slots(redis: Redis) -> Any:
    return await command(redis, "CLUSTER", "SLOTS")


def _at(options: dict[str, Any], address: Address) -> dict[str, Any]:
    return {**options, "host": address[0], "port": address[1]}
