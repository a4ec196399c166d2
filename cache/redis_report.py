"""Asks one Redis server, on a connection of its own, what a judgement of it needs; no command waits long.

report = await ask_url(url, tls)      # report.server, report.latency_s, report.refused
"""

import asyncio
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from cache.redis_info import COMMAND_TIMEOUT_S, RedisInfo, ask_server, reply_to
from cache.redis_url import TlsFiles, Topology, read_redis_url
from common.credentials import shown_url, shown_urls_in

PINGS: Final = 5


class CannotAsk(Exception):
    """The server does not answer at all; the message says why, without credentials."""


class NotOneServer(Exception):
    """The URL names no server but something that knows of some, such as Sentinels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport(RedisInfo):
    """What a server told of itself, and what was seen of it from here."""

    latency_s: float | None = None  # median round trip
    clock_s: float | None = None  # the server's clock less ours
    documents: int | None = None  # keys of the database
    is_local: bool = True  # on this machine
    has_password: bool = True


async def ask_url(url: str, timeout_s: float = 5.0, tls: TlsFiles | None = None) -> ServerReport:
    """Ask the server at a URL, on a connection of its own that is closed again; of a cluster, its first address.

    Raises CannotAsk, and NotOneServer for a URL that names no server.
    """
    try:
        client = client_of(url, tls or TlsFiles())
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(client)
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await client.aclose()
    except (RedisError, OSError, TimeoutError, ValueError, TypeError) as error:
        reason = shown_urls_in(str(error)) or "no answer in time"
        raise CannotAsk(f"no answer at {shown_url(url)} ({reason})") from None


def client_of(url: str, tls: TlsFiles) -> Redis:
    """A client of one server, with all options of the URL. Raises ValueError for the URL, NotOneServer."""
    read = read_redis_url(url).with_tls(tls)
    if read.topology is Topology.SENTINEL:
        raise NotOneServer(f"a URL of {url.partition('://')[0]}:// names no server")
    limits: dict[str, Any] = {
        "protocol": 2,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "socket_timeout": COMMAND_TIMEOUT_S,
    }
    place = dict(zip(("host", "port"), read.addresses[0], strict=True)) if read.addresses else {}
    return Redis.from_pool(ConnectionPool(**{**limits, **read.options, **place}))


async def ask(client: Redis) -> ServerReport:
    """Ask over a client that is there. Raises RedisError, OSError and TimeoutError where nothing answers."""
    refused: list[str] = []
    latency_s = await _latency_s(client, refused)
    told = await ask_server(client)
    before_s = time.time()
    clock = await reply_to(client, refused, "TIME")
    between_s = (before_s + time.time()) / 2
    size = await reply_to(client, refused, "DBSIZE")
    is_local, has_password = _place(client)
    return ServerReport(
        info=told.info,
        modules=told.modules,
        refused=(*told.refused, *refused),
        latency_s=latency_s,
        clock_s=_seconds(clock) - between_s if clock else None,
        documents=int(size) if size is not None else None,
        is_local=is_local,
        has_password=has_password,
    )


def _place(client: Redis) -> tuple[bool, bool]:
    """Whether the server is on this machine, and whether we log in."""
    options: dict[str, Any] = client.connection_pool.connection_kwargs
    host = options.get("host", "localhost")
    is_local = bool(options.get("path")) or host in {"localhost", "127.0.0.1", "::1"}
    return is_local, bool(options.get("password"))


async def _latency_s(client: Redis, refused: list[str]) -> float | None:
    times_s = []
    for _ in range(PINGS):
        begun_s = time.perf_counter()
        if await reply_to(client, refused, "PING") is None:
            return None
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s)


def _seconds(reply: Any) -> float:
    if isinstance(reply, tuple | list):
        seconds, microseconds = reply
        return int(seconds) + int(microseconds) / 1e6
    return float(reply)
