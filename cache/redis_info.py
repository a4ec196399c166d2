"""What a Redis server tells of itself, asked and parsed here alone: INFO, and its modules.

    told = await ask_info(client)          # told.server, told.number("used_memory")
    told = await ask_server(client)        # and told.search, where INFO leaves modules or all out

What it may not or does not tell is absent, and no error. Nothing is changed on the server, and no key is read. CONFIG
is not used: managed services forbid it.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

COMMAND_TIMEOUT_S: Final = 1.0
SEARCH_MODULES: Final = ("search", "searchlight")

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisInfo:
    """`info`: the fields of INFO; where that is refused, the version that HELLO tells; else empty."""

    info: dict[str, str] = field(default_factory=dict)
    modules: dict[str, Version] | None = None  # by name; None: not to be seen
    refused: tuple[str, ...] = ()  # commands that may not be called

    @property
    def server(self) -> str:
        """ "Redis 8.2.3", "Valkey 9.1.2"; empty where it was not told."""
        return f"{self.product} {self.version}" if self.version else ""

    @property
    def product(self) -> str:
        """ "Valkey", or "Redis", also where it was not told."""
        return "Valkey" if "valkey_version" in self.info else "Redis"

    @property
    def version(self) -> str:
        """Its version as text; empty where it was not told."""
        return self.info.get("valkey_version") or self.info.get("redis_version", "")

    @property
    def redis_version(self) -> Version | None:
        """Of Redis itself, (8, 2, 3); None for other servers and where it was not told."""
        return parse_version(self.version) if self.product == "Redis" and self.version else None

    @property
    def has_search(self) -> bool | None:
        """Whether a search module is loaded; None where modules are not to be seen."""
        return None if self.modules is None else not self.modules.keys().isdisjoint(SEARCH_MODULES)

    @property
    def search(self) -> str:
        """The search module and its version, "RediSearch 2.10.5"; empty where there is none or none is seen."""
        versions = [version for name, version in (self.modules or {}).items() if name in SEARCH_MODULES]
        if not versions:
            return ""
        version = max(versions)
        is_redisearch = len(version) == 3 and 2 <= version[0] < 100  # others number their versions otherwise
        return f"{'RediSearch' if is_redisearch else 'search module'} {'.'.join(map(str, version))}".strip()

    @property
    def keys(self) -> int:
        """Of all databases together."""
        spaces = [_entries(text) for name, text in self.info.items() if name[:2] == "db" and name[2:].isdigit()]
        return sum(int(space.get("keys", 0)) for space in spaces)

    def number(self, name: str) -> float | None:
        """A field of INFO as a number; None where it is absent or no number."""
        with suppress(KeyError, ValueError):
            return float(self.info[name])
        return None


async def ask_info(client: Redis) -> RedisInfo:
    """One INFO, with the modules that are in it. Raises RedisError, OSError, TimeoutError where nothing answers."""
    refused: list[str] = []
    reply = await reply_to(client, refused, "INFO")
    fields: dict[Any, Any] = reply if isinstance(reply, dict) else {}
    modules = fields.get("modules", [])
    return RedisInfo(
        info={_text(name): _joined(value) for name, value in fields.items() if not isinstance(value, list)},
        modules=_versions(modules) if isinstance(modules, list) and fields else None,
        refused=tuple(refused),
    )


async def ask_server(client: Redis) -> RedisInfo:
    """INFO, and where it has no modules HELLO, which any user may have, or else MODULE LIST. Raises as `ask_info`."""
    told = await ask_info(client)
    if told.modules:
        return told
    refused = [*told.refused]
    hello = _pairs(await reply_to(client, refused, "HELLO") or [])
    listed = hello.get("modules")
    if listed is None:
        listed = await reply_to(client, refused, "MODULE LIST")
    return RedisInfo(
        info=told.info or _info_of(hello),
        modules=told.modules if listed is None else _versions(listed),
        refused=tuple(refused),
    )


async def reply_to(client: Redis, refused: list[str], command: str) -> Any:
    """A command's reply; None where this user may not call it, or the server has no such command: then in `refused`."""
    sent: Awaitable[Any] = client.execute_command(command)  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await sent
    except ResponseError:
        refused.append(command)
        return None


def parse_version(text: str) -> Version:
    """ "8.2.3" as (8, 2, 3); what follows the numbers is left out."""
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _info_of(hello: Mapping[str, Any]) -> dict[str, str]:
    """The version that HELLO tells, as INFO has it."""
    name = "valkey_version" if "valkey" in _text(hello.get("server", "")) else "redis_version"
    return {name: _text(hello["version"])} if "version" in hello else {}


def _versions(modules: Iterable[Any]) -> dict[str, Version]:
    """Modules by their names in small letters."""
    told = [{name.lower(): value for name, value in _pairs(module).items()} for module in modules]
    return {_text(one.get("name", "")).lower(): _module_version(one.get("ver", 0)) for one in told}


def _module_version(number: Any) -> Version:
    """A module's number, 21005, as (2, 10, 5)."""
    try:
        value = int(number)
    except (TypeError, ValueError):
        return ()
    return value // 10_000, value // 100 % 100, value % 100


def _pairs(reply: Any) -> dict[str, Any]:
    """A mapping, which older protocols send as a list of names and values."""
    entries = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=False)
    return {_text(name): value for name, value in entries}


def _joined(value: Any) -> str:
    """A field as INFO has it, which redis-py has taken apart."""
    if not isinstance(value, dict):
        return _text(value)
    return ",".join(f"{_text(name)}={_text(one)}" for name, one in value.items())


def _entries(text: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in text.split(","))


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
