"""What a text costs gateway and Redis, in CPU time, commands and bytes: the constants of docs/scale.md.

The engine is a stand-in that answers at once (`stand_in`), so that nothing but gateway and Redis is measured, and what
one gateway core could do with engines without end. CPU time is the operating system's, and includes what is written
after the reply; of all rounds the least counts, since what else runs on a machine only adds.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click
import psutil
from redis import Redis
from rich.console import Console
from rich.markup import escape

from common.prometheus_text import parse
from loadtest.bench.gateway import fill
from loadtest.bench.machine import Machine
from loadtest.bench.norepeat import made_texts
from loadtest.bench.options import SEED, Bench, common_options
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.rounds import figures_table
from loadtest.bench.stack import Stack
from loadtest.bench.wire import embeddings_body, exchange, http_request, model_of, whole
from loadtest.display import step
from loadtest.exposition import METRICS_PATH
from loadtest.figures import Spread
from loadtest.texts import read_texts

PATH: Final = "/v1/embeddings"
BATCH: Final = 32
FEW: Final = 4  # connections that send requests of 32
SETTLE_S: Final = 1.0  # writes come after the reply
MOST_PER_S: Final = {1: 2500, BATCH: 16_000}  # texts that no worker exceeds: so many are made where none may repeat
SERVED: Final = "dejavec_cache_hits_total"
DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Seen:
    """Counters at one moment: CPU seconds, texts served, what Redis has done, and what it holds."""

    gateway_s: float
    redis_s: float
    texts: float
    commands: float
    bytes_in: float
    bytes_out: float
    entries: float
    memory: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one text took in one round. memory_bytes: of Redis for each new entry; None where none was written."""

    gateway_us: float
    redis_us: float
    commands: float
    to_redis_bytes: float
    from_redis_bytes: float
    memory_bytes: float | None

    @property
    def texts_per_core_s(self) -> float:
        """What one core of gateway could do: a worker is one thread of Python."""
        return 1e6 / self.gateway_us


def cost(before: Seen, after: Seen) -> Cost:
    """The difference, for each text served meanwhile. Raises BenchmarkError where none was."""
    texts, entries = after.texts - before.texts, after.entries - before.entries
    if not texts:
        raise BenchmarkError("no text was served in a round")
    return Cost(
        gateway_us=1e6 * (after.gateway_s - before.gateway_s) / texts,
        redis_us=1e6 * (after.redis_s - before.redis_s) / texts,
        commands=(after.commands - before.commands) / texts,
        to_redis_bytes=(after.bytes_in - before.bytes_in) / texts,
        from_redis_bytes=(after.bytes_out - before.bytes_out) / texts,
        memory_bytes=(after.memory - before.memory) / entries if entries > texts / 2 else None,
    )


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request: where it goes, how many texts each has, the tier that answers, and its bodies."""

    name: str
    url: str
    size: int
    tier: str
    requests: Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class CapacityResult:
    """All rounds, by kind of request."""

    title: str
    machine: Machine
    rounds: Mapping[str, Sequence[Cost]]
    bytes_of: Mapping[str, tuple[int, int]]

    def least(self, name: str) -> Cost:
        """Of each figure the least over the rounds; of memory, which grows in steps, the last."""
        rounds = self.rounds[name]
        figures = {field: min(getattr(one, field) for one in rounds) for field in FIGURES}
        return Cost(**figures, memory_bytes=rounds[-1].memory_bytes)

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "title": self.title,
            "machine": asdict(self.machine),
            "kinds": {
                name: {"least": asdict(self.least(name)), "rounds": [asdict(one) for one in rounds]}
                for name, rounds in self.rounds.items()
            },
            "bytes_of_request_and_answer": dict(self.bytes_of),
        }

    def spreads(self) -> Mapping[str, Spread]:
        """Nothing: it compares nothing."""
        return {}

    def show(self, console: Console) -> None:
        """Print machine and costs."""
        console.print(f"\n[bold]{escape(self.title)}[/]\n{escape(str(self.machine))}", soft_wrap=True)
        columns = ("a text of", "gateway us", "Redis us", "texts/s a gateway core", "commands", "to Redis B")
        table = figures_table((*columns, "from Redis B", "memory B", "request + answer B"))
        for name in self.rounds:
            one, (asked, answered) = self.least(name), self.bytes_of[name]
            figures = [one.gateway_us, one.redis_us, one.texts_per_core_s]
            stored = "" if one.memory_bytes is None else f"{one.memory_bytes:,.0f}"
            bytes_ = [f"{value:,.0f}" for value in (one.to_redis_bytes, one.from_redis_bytes)]
            shown = [f"{value:,.0f}" for value in figures] + [f"{one.commands:.2f}", *bytes_, stored]
            table.add_row(escape(name), *shown, f"{asked:,} + {answered:,}")
        console.print(table)


FIGURES: Final = ("gateway_us", "redis_us", "commands", "to_redis_bytes", "from_redis_bytes")


@click.command("capacity")
@common_options
def capacity(bench: Bench) -> Sequence[CapacityResult]:
    """CPU time, Redis commands, memory and bytes of a text, by where its vector comes from.

    Starts Redis and two gateways on --core, and an engine that computes nothing on --generator-core.
    """
    texts = bench.texts()
    with Stack(bench.core) as stack, Stack(bench.generator_core) as beside:
        with step(bench.console, "starting the servers"):
            engine_url = beside.stand_in(beside.engine(bench.bundle))
            redis_url = stack.redis()
            redis_pid = stack.pids[-1]
            local = stack.gateway(engine_url, redis_url, local_cache_ttl_seconds=DAY_S, cache_ttl_seconds=DAY_S)
            pids = {local: stack.pids[-1]}
            exact = stack.gateway(engine_url, redis_url, local_cache_mb=0, cache_ttl_seconds=DAY_S)
            pids[exact] = stack.pids[-1]
        with step(bench.console, "filling the caches"):
            fill(local, texts, "local")
            fill(exact, texts, "exact")
        kinds = kinds_of(bench, local, exact, texts)
        rounds: dict[str, list[Cost]] = {kind.name: [] for kind in kinds}
        for number in range(bench.rounds):
            for kind in kinds:
                with step(bench.console, f"round {number + 1} of {bench.rounds}: {kind.name}"):
                    rounds[kind.name].append(measured(bench, kind, pids[kind.url], redis_pid, redis_url))
        sizes = {kind.name: bytes_of(kind.url, kind.requests()[0]) for kind in kinds}
    title = "What a text costs; the engine computes nothing"
    return [CapacityResult(title, bench.machine, rounds, sizes)]


def kinds_of(bench: Bench, local: str, exact: str, texts: Sequence[str]) -> list[Kind]:
    """Hits of both tiers on texts that are there, and texts that come once."""
    model, made = model_of(exact), made_texts(read_texts(None), SEED)

    def requests(url: str, size: int, source: Sequence[str]) -> list[bytes]:
        return [http_request(url, PATH, embeddings_body(model, group)) for group in whole(source, size)]

    def once(size: int) -> Sequence[bytes]:
        return requests(exact, size, fresh(made, int(MOST_PER_S[size] * (bench.seconds + 1))))

    return [
        Kind("L0 hit, alone", local, 1, "local", lambda: requests(local, 1, texts)),
        Kind("Redis hit, alone", exact, 1, "exact", lambda: requests(exact, 1, texts)),
        Kind(f"Redis hit, {BATCH} in a request", exact, BATCH, "exact", lambda: requests(exact, BATCH, texts)),
        Kind("computed, alone", exact, 1, "miss", lambda: once(1)),
        Kind(f"computed, {BATCH} in a request", exact, BATCH, "miss", lambda: once(BATCH)),
    ]


def fresh(made: Iterator[str], count: int) -> list[str]:
    """So many texts that have not come yet."""
    return [next(made) for _ in range(count)]


def measured(bench: Bench, kind: Kind, gateway_pid: int, redis_pid: int, redis_url: str) -> Cost:
    """One round. Raises BenchmarkError where another tier answered than should, or requests failed."""
    requests = kind.requests()
    before = seen(kind.url, gateway_pid, redis_pid, redis_url)
    measurement = bench.load.measure(kind.url, requests, bench.connections if kind.size == 1 else FEW)
    time.sleep(SETTLE_S)
    after = seen(kind.url, gateway_pid, redis_pid, redis_url)
    if measurement.failed or set(measurement.tiers) - {kind.tier}:
        raise BenchmarkError(f"{kind.name}: answered by {measurement.tiers}, failed: {measurement.failed}")
    return cost(before, after)


def seen(url: str, gateway_pid: int, redis_pid: int, redis_url: str) -> Seen:
    """The counters now."""
    with Redis.from_url(redis_url) as client:
        info, entries = client.info(), client.dbsize()
    return Seen(
        gateway_s=cpu_seconds(gateway_pid),
        redis_s=cpu_seconds(redis_pid),
        texts=texts_served(url),
        commands=info["total_commands_processed"],
        bytes_in=info["total_net_input_bytes"],
        bytes_out=info["total_net_output_bytes"],
        entries=entries,
        memory=info["used_memory"],
    )


def texts_served(url: str) -> float:
    """How many texts a gateway has answered, whatever tier they came from."""
    return parse(exchange(url, METRICS_PATH)[0].decode()).total(SERVED) or 0.0


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def bytes_of(url: str, request: bytes) -> tuple[int, int]:
    """Bytes of a request and of its answer, head and body, without TCP's and TLS' own."""
    head, _, body = request.partition(b"\r\n\r\n")
    content, headers = exchange(url, PATH, body)
    answered = sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(content)
    return len(head) + 4 + len(body), answered
