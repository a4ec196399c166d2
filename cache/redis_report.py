"""Asks one Redis server what it is. What it may not or does not tell is absent, and no error.

Every command has a time limit. Nothing is changed on the server, and no key is read. CONFIG is not used: managed
services forbid it, and INFO has what is needed.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from common.credentials import shown_url, shown_urls_in

PINGS: Final = 5
COMMAND_TIMEOUT_S: Final = 1.0
SEARCH_MODULES: Final = ("search", "searchlight")

Version = tuple[int, ...]


class CannotAsk(Exception):
    """The server does not answer at all; the message says why, without credentials."""


class NotOneServer(Exception):
    """The URL names no server but something that knows of some, such as Sentinels."""


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server told of itself. `info`: the fields of INFO, empty where it was refused."""

    info: dict[str, str] = field(default_factory=dict)
    modules: dict[str, Version] | None = None  # by name; None: not to be seen
    latency_s: float | None = None  # median round trip
    clock_s: float | None = None  # the server's clock less ours
    documents: int | None = None  # keys of the database
    refused: tuple[str, ...] = ()  # commands that may not be called
    is_local: bool = True  # on this machine
    has_password: bool = True

    @property
    def server(self) -> str:
        """ "Redis 8.2.3", "Valkey 9.1.2"; empty where it was not told."""
        if version := self.info.get("valkey_version"):
            return f"Valkey {version}"
        return f"Redis {version}" if (version := self.info.get("redis_version")) else ""

    @property
    def redis_version(self) -> Version | None:
        """Of Redis itself, (8, 2, 3); None for other servers and where it was not told."""
        if "valkey_version" in self.info or "redis_version" not in self.info:
            return None
        return parse_version(self.info["redis_version"])

    @property
    def search(self) -> str:
        """The search module and its version, "search 2.10.5"; empty where there is none or none is seen."""
        found = [name for name in SEARCH_MODULES if name in (self.modules or {})]
        return f"{found[0]} {'.'.join(map(str, (self.modules or {})[found[0]]))}" if found else ""

    def number(self, name: str) -> float | None:
        """A field of INFO as a number; None where it is absent or no number."""
        with suppress(KeyError, ValueError):
            return float(self.info[name])
        return None


async def ask_url(url: str, timeout_s: float = 5.0, tls: Mapping[str, Any] | None = None) -> ServerReport:
    """Ask the server at a URL, on a connection of its own that is closed again; of a cluster, its first address.

    `tls`: redis-py's options for certificates. Raises CannotAsk, and NotOneServer for a URL that names no server.
    """
    try:
        client = Redis.from_url(
            server_of(url),
            protocol=2,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            socket_timeout=COMMAND_TIMEOUT_S,
            **(tls or {}),
        )
        is_local, has_password = _place(client)
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(client, is_local=is_local, has_password=has_password)
        finally:
            with suppress(RedisError, OSError, TimeoutError):
                await client.aclose()
    except (RedisError, OSError, TimeoutError, ValueError, TypeError) as error:
        reason = shown_urls_in(str(error)) or "no answer in time"
        raise CannotAsk(f"no answer at {shown_url(url)} ({reason})") from None


def server_of(url: str) -> str:
    """The URL of one server: `redis+cluster://user:password@one,two` is that of `one`. Raises NotOneServer."""
    scheme, separator, rest = url.partition("://")
    protocol, _, topology = scheme.partition("+")
    if not topology:
        return url
    if topology != "cluster":
        raise NotOneServer(f"a URL of {scheme}:// names no server")
    authority = rest[: min((rest + end).index(end) for end in "/?#")]
    user, at, hosts = authority.rpartition("@")
    return f"{protocol}{separator}{user}{at}{hosts.split(',')[0]}"


async def ask(client: Redis, *, is_local: bool = True, has_password: bool = True) -> ServerReport:
    """Ask over a client that is there. Raises RedisError, OSError and TimeoutError where nothing answers."""
    refused: list[str] = []
    latency_s = await _latency_s(client, refused)
    info = _fields(await _reply(client, refused, "INFO"))
    before_s = time.time()
    clock = await _reply(client, refused, "TIME")
    between_s = (before_s + time.time()) / 2
    size = await _reply(client, refused, "DBSIZE")
    return ServerReport(
        info=info,
        modules=await _modules(client, info, refused),
        latency_s=latency_s,
        clock_s=_seconds(clock) - between_s if clock else None,
        documents=int(size) if size is not None else None,
        refused=tuple(refused),
        is_local=is_local,
        has_password=has_password,
    )


def parse_version(text: str) -> Version:
    """ "8.2.3" as (8, 2, 3); what follows the numbers is left out."""
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


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
        if await _reply(client, refused, "PING") is None:
            return None
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s)


async def _reply(client: Redis, refused: list[str], *words: str) -> Any:
    """A command's reply; None where this user may not call it, or the server has no such command."""
    sent: Awaitable[Any] = client.execute_command(*words)  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await sent
    except ResponseError:
        refused.append(words[0])
        return None


async def _modules(client: Redis, info: dict[str, str], refused: list[str]) -> dict[str, Version] | None:
    """Names and versions of modules, of INFO or else of MODULE LIST, of which providers often allow only one."""
    if found := _modules_of_info(info):
        return found
    listed = await _reply(client, refused, "MODULE LIST")
    if listed is None:
        return {} if info else None
    names: dict[str, Version] = {}
    for module in listed:
        entries = module if isinstance(module, dict) else dict(zip(module[::2], module[1::2], strict=False))
        told = {_text(key).lower(): value for key, value in entries.items()}
        names[_text(told.get("name", "")).lower()] = _module_version(told.get("ver", 0))
    return names


def _fields(reply: Any) -> dict[str, str]:
    """INFO's fields, as redis-py parses them, as text; each module is one of "module:0", "module:1", ..."""
    if not isinstance(reply, dict):
        return {}
    fields = {_text(key): value for key, value in reply.items()}
    modules = fields.pop("modules", [])
    for number, module in enumerate(modules if isinstance(modules, list) else []):
        fields[f"module:{number}"] = ",".join(f"{_text(key)}={_text(value)}" for key, value in module.items())
    return {key: _text(value) for key, value in fields.items() if not isinstance(value, dict | list)}


def _modules_of_info(info: dict[str, str]) -> dict[str, Version]:
    found = {}
    for name, value in info.items():
        if name.startswith("module:"):
            entries = dict(part.partition("=")[::2] for part in value.split(","))
            found[entries.get("name", "").lower()] = _module_version(entries.get("ver", "0"))
    return found


def _module_version(number: Any) -> Version:
    """A module's number, 21005, as (2, 10, 5)."""
    try:
        value = int(number)
    except (TypeError, ValueError):
        return ()
    return value // 10_000, value // 100 % 100, value % 100


def _seconds(reply: Any) -> float:
    if isinstance(reply, tuple | list):
        seconds, microseconds = reply
        return int(seconds) + int(microseconds) / 1e6
    return float(reply)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
