"""What a Redis URL says: where to begin, what is to be found there, and how to connect.

    redis://user:password@host:6379/0                     one server; or one of a cluster, which is noticed
    rediss://...  unix:///path                            the same with TLS, or a socket of this machine
    redis+cluster://user:password@one:6379,two:6379       a cluster, and several addresses to begin at
    redis+sentinel://user:password@one:26379,two:26379/mymaster/0?sentinel_password=...
                                                          the master of that name, as the Sentinels have it
    rediss+cluster://...  rediss+sentinel://...           the same with TLS, to Sentinels and servers alike

User and password are the servers'; Sentinels have their own, or none.
"""

import ssl
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
MAX_ADDRESSES: Final = 64

Address = tuple[str, int]


class Topology(StrEnum):
    """How the servers behind a URL belong together."""

    SINGLE = "single server"
    CLUSTER = "cluster"
    SENTINEL = "Sentinel"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for `rediss`: whom to trust beside the system's authorities, and a certificate of our own."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def options(self) -> dict[str, str]:
        """As redis-py takes them."""
        named = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {name: str(path) for name, path in named.items() if path is not None}

    def check(self) -> None:
        """Raises ValueError for a file that cannot be used; the message names it."""
        try:
            context = ssl.create_default_context()
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"redis_ca_file {self.ca}: {_reason(error)}; it holds certificates as PEM") from None
        if self.certificate is None:
            return
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_pass_phrase)
        except (OSError, ValueError) as error:
            raise ValueError(f"redis_cert_file {self.certificate}, redis_key_file: {_reason(error)}") from None


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL that has been read. `options` are redis-py's for every server; `sentinel_options` for every Sentinel."""

    topology: Topology
    addresses: tuple[Address, ...]  # empty where `options` has all of it: a single server
    options: dict[str, Any]
    master: str = ""
    sentinel_options: dict[str, Any] | None = None

    def with_tls(self, files: TlsFiles) -> "RedisUrl":
        """With these files where the URL asks for TLS; as it is where not."""
        if not self.has_tls:
            return self
        to_sentinels = None if self.sentinel_options is None else {**self.sentinel_options, **files.options()}
        return replace(self, options={**self.options, **files.options()}, sentinel_options=to_sentinels)

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted."""
        return "connection_class" in self.options and "path" not in self.options


def read_redis_url(url: str) -> RedisUrl:
    """Read a URL. Raises ValueError, whose message does not hold the URL."""
    from redis.asyncio.connection import parse_url  # noqa: PLC0415  settings are read without redis-py as well

    parts = split_redis_url(url)
    options: dict[str, Any] = dict(parse_url(parts.plain))
    if parts.topology is Topology.SINGLE:
        return RedisUrl(parts.topology, (), options)
    del options["host"]
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if parts.topology is Topology.CLUSTER:
        return RedisUrl(parts.topology, parts.addresses, options)
    to_sentinels = {name: value for name, value in options.items() if name not in {"username", "password"}}
    to_sentinels |= {name: value for name, value in own.items() if value is not None}
    return RedisUrl(parts.topology, parts.addresses, {**options, "db": parts.database}, parts.master, to_sentinels)


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A URL taken apart; `plain` is what redis-py reads, of a cluster and of Sentinels with a host that is none."""

    topology: Topology
    plain: str
    addresses: tuple[Address, ...] = ()
    master: str = ""
    database: int = 0


def split_redis_url(url: str) -> UrlParts:
    """Take a URL apart. Raises ValueError, whose message does not hold the URL."""
    scheme, _, rest = url.partition("://")
    if scheme in {"redis", "rediss", "unix"}:
        return UrlParts(Topology.SINGLE, url)
    plain, _, kind = scheme.partition("+")
    if plain not in {"redis", "rediss"} or kind not in {"cluster", "sentinel"}:
        raise ValueError(
            "give a URL that starts with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://"
        )
    place, mark, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    addresses = tuple(_address(host, SENTINEL_PORT if kind == "sentinel" else PORT) for host in hosts.split(","))
    if len(addresses) > MAX_ADDRESSES:
        raise ValueError(f"it has more than {MAX_ADDRESSES} addresses")
    own = f"{plain}://{login}{at}host{mark}{query}"
    if kind == "cluster":
        if path.strip("/") not in {"", "0"}:
            raise ValueError("a cluster has database 0 alone")
        return UrlParts(Topology.CLUSTER, own, addresses)
    master, _, database = path.strip("/").partition("/")
    if not master:
        raise ValueError("name the master behind the Sentinels' addresses: redis+sentinel://host:26379/mymaster")
    if database and not database.isdigit():
        raise ValueError("what follows the master's name is the number of a database, such as /0")
    return UrlParts(Topology.SENTINEL, own, addresses, unquote(master), int(database or 0))


def _address(host: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{host}")
        found = parts.hostname, parts.port or port
    except ValueError:
        raise ValueError("a host or port cannot be read; the port is a number from 0 to 65535") from None
    if not found[0] or parts.path:
        raise ValueError("give each address as host:port, with commas between them")
    return found[0], found[1]


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase; give one without")
