"""Caches of embeddings beside ours: what a hit costs, whether it is the stored vector, and what else each does.

Peers run as libraries in their own process, in environments of their own; dejavec runs as it is deployed, a server
asked over HTTP. All are filled with the same vectors, and all that they use lies on one core: what is compared is the
CPU time of client, server and Redis together.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import numpy as np
import orjson
import psutil
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

from loadtest.bench import gateway as cached_side
from loadtest.bench.cache_process import ADAPTERS, CacheProcess, Stored, options_for
from loadtest.bench.cache_result import CacheResult, Measured, Round
from loadtest.bench.engine import run_counts
from loadtest.bench.options import Bench, server_options
from loadtest.bench.peers import start_litellm
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.stack import Stack
from loadtest.bench.wire import batches, embeddings_body, exchange, model_of
from loadtest.display import step
from loadtest.figures import decode_vector

BATCH: Final = 32
FILLED, NEW, NEARS = 128, 32, 16  # texts; the latter are new to the caches until a fact needs them
SAMPLED: Final = 20  # entries whose size and TTL are read
REGROUPED: Final = 5  # texts of a request, as they have not been asked for together before
NEAR: Final = "{} please"  # a text that means nearly the same, for caches that look up by similarity

HELP = """Caches of embeddings beside ours, each in an environment of its own, all on --core.

\b
To make the environments:
  python -m venv redisvl && redisvl/bin/pip install redisvl
  python -m venv langchain && langchain/bin/pip install langchain-classic langchain-community redis
  python -m venv gptcache && gptcache/bin/pip install gptcache redis "redis-om<0.3" "pydantic<2" faiss-cpu sqlalchemy
  python -m venv litellm && litellm/bin/pip install "litellm[proxy]" redis

\b
Then:
  python -m loadtest.bench caches --core 0 --peer redisvl=redisvl/bin/python --peer langchain=langchain/bin/python \\
      --peer gptcache=gptcache/bin/python --peer litellm=litellm/bin/python --peer litellm-proxy=litellm/bin/python

`gptcache-redis` (GPTCache with its index in Redis) needs a Redis with RediSearch and RedisJSON: name one that nothing
else uses with --redis-url.
"""


@dataclass(frozen=True, slots=True)
class Known:
    """A cache that can be measured: its adapter, and whether its entries in Redis are read: ours are, once."""

    name: str
    adapter: str
    in_redis: bool = True


PEERS: Final[dict[str, Known]] = {
    "redisvl": Known("RedisVL EmbeddingsCache", "redisvl_cache.py"),
    "langchain": Known("LangChain CacheBackedEmbeddings", "langchain_cache.py"),
    "gptcache": Known("GPTCache, map in process", "gptcache_map.py", in_redis=False),
    "gptcache-redis": Known("GPTCache, Redis", "gptcache_redis.py"),
    "litellm": Known("LiteLLM library, Redis", "litellm_library.py"),
    "litellm-proxy": Known("LiteLLM proxy, Redis", "openai_http.py"),
}
OURS: Final = (
    Known("dejavec's client, from L0", "dejavec_client.py"),
    Known("dejavec's client, from Redis", "dejavec_client.py", in_redis=False),
    Known("dejavec, plain HTTP, from L0", "openai_http.py", in_redis=False),
    Known("dejavec, plain HTTP, from Redis", "openai_http.py", in_redis=False),
)


@dataclass
class Contender:
    """An opened cache, the servers whose CPU time is its own, and what is measured of it."""

    known: Known
    process: CacheProcess
    servers: Sequence[int]
    measured: Measured = field(init=False)

    def __post_init__(self) -> None:
        self.measured = Measured(self.known.name, self.process.packages)


@click.command("caches", help=HELP)
@click.option("--peer", "peers", multiple=True, metavar="NAME=PYTHON", help=f"One of {', '.join(PEERS)}.")
@click.option("--look-ups", default=1024, show_default=True, type=click.IntRange(BATCH), help="Texts of each round.")
@click.option("--redis-url", help="A local Redis that nothing else uses, instead of starting one.")
@server_options
def caches(bench: Bench, *, peers: Sequence[str], look_ups: int, redis_url: str | None) -> Sequence[CacheResult]:
    """Measure the caches that were named beside ours."""
    pythons = named(peers)
    with Stack(bench.core) as stack, ExitStack() as processes:
        with step(bench.console, "starting the servers"):
            redis = redis_url or stack.redis()
            engine = stack.engine(bench.bundle)
            local = stack.gateway(
                engine, redis, local_cache_ttl_seconds=cached_side.DAY_S, cache_ttl_seconds=cached_side.DAY_S
            )
            exact = stack.gateway(engine, redis, local_cache_mb=0, cache_ttl_seconds=cached_side.DAY_S)
        stored = stored_from(exact, bench.texts())
        opened = Opener(bench, stack, processes, cached_side.Gateways(local, exact, redis), stored)
        contenders = opened.ours()
        for key, python in pythons.items():
            contender = opened.peer(key, python)
            if contender is not None:
                contenders.append(contender)
        filled = stored.texts[:FILLED]
        for contender in list(contenders):
            with step(bench.console, f"filling: {contender.known.name}"):
                try:
                    fill(contender, filled, redis)
                except BenchmarkError as error:
                    contenders.remove(contender)
                    opened.left_out[contender.known.name] = str(error)
        opened.left_out |= look_up_in_turn(contenders, filled, look_ups, bench.rounds, redis, bench.console)
        for place, contender in enumerate(contenders):
            with step(bench.console, f"what it does: {contender.known.name}"):
                find_facts(contender, stored, place, engine)
    title = f"Hits of {len(filled)} texts, {stored.vectors.shape[1]} dimensions; CPU time of client, server and Redis"
    return [CacheResult(title, bench.machine, [one.measured for one in contenders], opened.left_out)]


def named(peers: Sequence[str]) -> dict[str, str]:
    """Pythons by peer. Raises BenchmarkError for one that cannot be understood."""
    pythons = {}
    for peer in peers:
        name, _, python = peer.partition("=")
        if name not in PEERS or not Path(python).is_file():
            raise BenchmarkError(f"--peer {peer}: give NAME=PYTHON, with a name of {', '.join(PEERS)}")
        pythons[name] = str(Path(python).absolute())  # not resolved: an environment's python is a link
    return pythons


def stored_from(url: str, texts: Sequence[str]) -> Stored:
    """Texts, near ones, and the vectors that the gateway computes for them. Raises BenchmarkError."""
    if len(texts) < FILLED + NEW:
        raise BenchmarkError(f"--texts: {len(texts)} distinct texts, and {FILLED + NEW} are needed")
    used = list(texts[: FILLED + NEW])
    used += [NEAR.format(text) for text in used[:NEARS]]
    model, rows = model_of(url), []
    for group in batches(used, BATCH):
        content, _ = exchange(url, cached_side.PATH, embeddings_body(model, group), {"x-cache-control": "no-store"})
        rows += [decode_vector(row["embedding"]) for row in orjson.loads(content)["data"]]
    return Stored(used, np.stack(rows))


@dataclass
class Opener:
    """Opens caches in processes of their own; those that do not open are left out with the reason."""

    bench: Bench
    stack: Stack
    processes: ExitStack
    gateways: cached_side.Gateways
    stored: Stored
    left_out: dict[str, str] = field(default_factory=dict)

    def ours(self) -> list[Contender]:
        """The gateway with L0, and without, by our client and by a plain one; each with its worker's CPU time."""
        urls = (self.gateways.local, self.gateways.exact) * 2
        return [
            Contender(known, self._process(known, sys.executable, url, ours=True), [self._pid(url)])
            for known, url in zip(OURS, urls, strict=True)
        ]

    def peer(self, key: str, python: str) -> Contender | None:
        """A library, or LiteLLM's proxy with a server of its own."""
        known, servers, url = PEERS[key], list[int](), ""
        try:
            if key == "litellm-proxy":
                url = start_litellm(self.stack, Path(python), self.gateways.exact, self.gateways.redis)
                servers = [self._pid(url)]
            return Contender(known, self._process(known, python, url, ours=False), servers)
        except BenchmarkError as error:
            self.left_out[known.name] = str(error)
            return None

    def _process(self, known: Known, python: str, url: str, *, ours: bool) -> CacheProcess:
        folder = self.stack.folder / known.name.replace(" ", "-").replace(",", "")
        options = options_for(
            self.stored,
            folder,
            model="all-MiniLM-L6-v2",
            ttl_s=cached_side.DAY_S,
            redis_url=self.gateways.redis,
            url=url,
        )
        options["server_model"] = model_of(url) if url else ""
        adapter = ADAPTERS / known.adapter
        return self.processes.enter_context(CacheProcess(python, adapter, options, self.bench.core, ours=ours))

    def _pid(self, url: str) -> int:
        """The started server that listens where `url` says."""
        port = urlsplit(url).port
        for pid in self.stack.pids:
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                if any(one.laddr.port == port for one in process.net_connections("tcp") if one.status == "LISTEN"):
                    return pid
        raise BenchmarkError(f"no server that was started listens at {url}")


def fill(contender: Contender, texts: Sequence[str], redis_url: str) -> None:
    """Ask for all texts, alone and in batches, until they come from the cache; read what Redis holds then."""
    process, measured = contender.process, contender.measured
    with Redis.from_url(redis_url) as redis:
        before = set(redis.scan_iter(count=1000))
        for _ in range(2):  # some write behind the reply
            process.ask("time", texts, batch=1)
        if contender.known.in_redis:
            new = sorted(set(redis.scan_iter(count=1000)) - before)
            measured.bytes_a_text = sum(redis.memory_usage(key) or 0 for key in new) / len(texts)
            ttls = [redis.ttl(key) for key in new[:SAMPLED]]
            measured.has_ttl = any(0 < ttl <= cached_side.DAY_S for ttl in ttls)
    for _ in range(2):
        process.ask("time", texts, batch=BATCH)


def look_up_in_turn(
    contenders: list[Contender], texts: Sequence[str], look_ups: int, rounds: int, redis_url: str, console: Console
) -> dict[str, str]:
    """Rounds in which each is asked for single texts, then for batches; another one begins each round.

    One that fails is taken out of `contenders`; returned are the names of these with their reasons.
    """
    failed: dict[str, str] = {}
    wanted = [texts[place % len(texts)] for place in range(look_ups)]
    with Redis.from_url(redis_url) as redis:
        for number in range(rounds):
            start = number % len(contenders)
            with step(console, f"round {number + 1} of {rounds}"):
                for contender in [*contenders[start:], *contenders[:start]]:
                    try:
                        contender.measured.singles.append(_round(contender, wanted, 1, redis))
                        contender.measured.batches.append(_round(contender, wanted, BATCH, redis))
                    except BenchmarkError as error:
                        contenders.remove(contender)
                        failed[contender.known.name] = str(error)
    return failed


def _round(contender: Contender, texts: Sequence[str], batch: int, redis: Redis) -> Round:
    process = contender.process
    process.ask("time", texts[:BATCH], batch=batch)  # caches were the others' meanwhile
    server_s, redis_s = cpu_seconds(contender.servers), redis_seconds(redis)
    taken = process.ask("time", texts, batch=batch)
    server_s, redis_s = cpu_seconds(contender.servers) - server_s, redis_seconds(redis) - redis_s
    return Round(len(texts), taken["cpu_s"], server_s, redis_s, taken["wall_s"])


def cpu_seconds(servers: Sequence[int]) -> float:
    """CPU time of processes and of all that they started, in steps of the kernel's tick."""
    processes = [one for pid in servers for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    return float(sum(times.user + times.system for times in (one.cpu_times() for one in processes)))


def redis_seconds(redis: Redis) -> float:
    """CPU time that Redis says it has used. Raises BenchmarkError."""
    try:
        used: Any = redis.info("cpu")
    except RedisError as error:
        raise BenchmarkError(f"Redis does not answer: {error}") from None
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def find_facts(contender: Contender, stored: Stored, place: int, engine_url: str) -> None:
    """What it does besides, with new texts of its own; a question that fails is answered by its failure.

    What a server computed is counted by the engine behind it, the text of its heartbeat among them, one in
    some seconds; what a library computed is counted by the worker's embedder.
    """
    ask, served = contender.process.ask, bool(contender.servers)
    filled, new = stored.texts[:FILLED], stored.texts[FILLED + 3 * place : FILLED + 3 * place + 3]
    questions: dict[str, Callable[[], dict[str, Any]]] = {
        "exact": lambda: ask("exact", filled, batch=1),
        "threads": lambda: ask("threads", filled),
        "regrouped": lambda: ask("time", filled, batch=REGROUPED),
        "repeated": lambda: ask("repeated", new[:1]),
        "at once": lambda: ask("at_once", new[1:2]),
        "near": lambda: ask("exact", stored.texts[FILLED + NEW :], batch=1),
    }
    if not served:
        questions["other model"] = lambda: ask("other_model", filled[:4])
        questions["without Redis"] = lambda: ask("without_redis", new[2:3])
    for name, question in questions.items():
        before = run_counts(engine_url).texts
        try:
            answer = question()
        except BenchmarkError as error:
            answer = {"error": str(error)}
        if served and "error" not in answer:
            answer["embedded"] = round(run_counts(engine_url).texts - before)
        contender.measured.facts[name] = answer
