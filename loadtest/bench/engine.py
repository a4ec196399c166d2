"""Uncached texts: engine and gateway against the engine's own graph called in a loop, on the same texts and core.

The engine gets token ids by its binary protocol, the gateway JSON with texts and
`x-cache-control: no-cache`, so that it computes each text and writes it to Redis, but looks nothing up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import click
import psutil

from loadtest.bench.generator import Measurement
from loadtest.bench.graph import GraphTask, tokenize
from loadtest.bench.options import Bench, common_options
from loadtest.bench.rounds import Contender, Difference, Ratio, Result, alternate
from loadtest.bench.stack import Stack, check_bundle
from loadtest.bench.wire import (
    BINARY_TYPE,
    embeddings_body,
    exchange,
    http_request,
    model_of,
    vectors_body,
    whole,
)
from loadtest.display import step

BATCH = 32
COMPUTE = {"x-cache-control": "no-cache"}

GRAPH_ORDER, GRAPH_SORTED = "bare graph, batches of 32", "bare graph, batches of 32 sorted by length"
GRAPH_SINGLE = "bare graph, one text at a time"
ENGINE_SINGLE, ENGINE_BATCH = "engine, single texts", "engine, requests of 32"
GATEWAY_SINGLE, GATEWAY_BATCH = "gateway uncached, single texts", "gateway uncached, requests of 32"
BESIDE_SINGLE, BESIDE_IDLE = "the other version's gateway, single texts", "the other version's, one connection"
ENGINE_IDLE, GATEWAY_IDLE = "engine, one connection", "gateway uncached, one connection"

RATIOS = (
    Ratio("engine singles / bare graph", ENGINE_SINGLE, GRAPH_ORDER, 0.9),
    Ratio("engine requests of 32 / bare graph", ENGINE_BATCH, GRAPH_ORDER, 0.9),
    Ratio("engine singles / bare graph sorted by length", ENGINE_SINGLE, GRAPH_SORTED),
    Ratio("gateway singles / bare graph", GATEWAY_SINGLE, GRAPH_ORDER),
    Ratio("gateway requests of 32 / bare graph", GATEWAY_BATCH, GRAPH_ORDER),
    Ratio("gateway singles / engine singles", GATEWAY_SINGLE, ENGINE_SINGLE, 0.9),
)
IDLE = (
    Difference("added by the engine to the bare graph, p50", ENGINE_IDLE, GRAPH_SINGLE, 1.0),
    Difference("added by the gateway to the engine, p50", GATEWAY_IDLE, ENGINE_IDLE, 1.0),
    Difference("added by gateway and engine to the bare graph, p50", GATEWAY_IDLE, GRAPH_SINGLE),
)
BESIDE = (
    Ratio("the other version's singles / engine singles", BESIDE_SINGLE, ENGINE_SINGLE),
    Ratio("gateway singles / the other version's", GATEWAY_SINGLE, BESIDE_SINGLE),
)
BESIDE_IDLES = (Difference("added by this version to the other's lone text, p50", GATEWAY_IDLE, BESIDE_IDLE),)


class RunCounts(NamedTuple):
    """What an engine has run: tokens without and with padding, texts, and runs of the model."""

    tokens: float
    padded_tokens: float
    texts: float
    runs: float


COUNTERS = ("tokens_total", "padded_tokens_total", "batch_rows_sum", "batch_rows_count")
NOTHING_RUN = RunCounts(0, 0, 0, 0)


@dataclass
class RunMeter:
    """Reads counters around rounds: how full the engine's runs were for each contender, and the servers' CPU time.

    CPU time is what stays comparable on a machine that others use too. pids: the servers', where it is to be counted.
    """

    engine_url: str
    counted: dict[str, RunCounts] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    pids: Sequence[int] = ()

    def around(self, name: str, measure: Callable[[], Measurement]) -> Callable[[], Measurement]:
        """The same round, with what the engine computed meanwhile added to `name`'s counts."""

        def metered() -> Measurement:
            before, cpu_before = run_counts(self.engine_url), cpu_seconds_of(self.pids)
            measurement = measure()
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + cpu_seconds_of(self.pids) - cpu_before
            more = [after - start for after, start in zip(run_counts(self.engine_url), before, strict=True)]
            so_far = self.counted.get(name, NOTHING_RUN)
            self.counted[name] = RunCounts(*(old + new for old, new in zip(so_far, more, strict=True)))
            return measurement

        return metered

    def figures(self) -> dict[str, float]:
        """Padding's share of the computed tokens, and the mean number of texts in a run, by contender."""
        found = {}
        for name, counts in self.counted.items():
            if counts.runs:
                found[f"padding share, {name}"] = 1 - counts.tokens / counts.padded_tokens
                found[f"texts in a run, {name}"] = counts.texts / counts.runs
        return found | self.cpu_figures()

    def cpu_figures(self) -> dict[str, float]:
        """CPU milliseconds of all servers for each text that the engine computed, by contender."""
        counted = {name: counts.texts for name, counts in self.counted.items() if self.pids and counts.texts}
        return {f"CPU of all servers, ms a text, {name}": 1000 * self.cpu_s[name] / n for name, n in counted.items()}


@dataclass(frozen=True, slots=True)
class Sources:
    """Where engine and gateway answer, and what is sent to them."""

    bench: Bench
    engine_url: str
    gateway_url: str
    bundle: Path
    texts: list[str]
    input_ids: list[list[int]]
    bulk_connections: int
    beside_url: str | None = None  # of a gateway of another version
    pids: Sequence[int] = ()  # of the servers it started


@click.command("engine")
@click.option("--engine-url", help="A running engine, instead of starting one.")
@click.option("--gateway-url", help="A running gateway in front of it.")
@click.option(
    "--bulk-connections",
    default=4,
    show_default=True,
    type=click.IntRange(1),
    help="Connections that send requests of 32 texts.",
)
@click.option(
    "--beside",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkout of another version, whose gateway is measured beside this one, before the same engine and Redis.",
)
@common_options
def engine(
    bench: Bench, *, engine_url: str | None, gateway_url: str | None, bulk_connections: int, beside: Path | None
) -> Sequence[Result]:
    """Uncached texts a second against the bare graph, padding, and the time added to a lone text.

    Starts Redis, engine and gateway on --core; the bare graph runs on the same core in its turn.
    """
    if (engine_url is None) != (gateway_url is None):
        raise click.UsageError("name both --engine-url and --gateway-url, or neither")
    if beside is not None and gateway_url is not None:
        raise click.UsageError("--beside starts a gateway beside the one it starts itself: leave --gateway-url out")
    bundle, texts = check_bundle(bench.bundle), bench.texts()
    with Stack(bench.core) as stack:
        beside_url = None
        if engine_url is None or gateway_url is None:
            with step(bench.console, "starting the servers"):
                engine_url, redis_url = stack.engine(bundle), stack.redis()
                gateway_url = stack.gateway(engine_url, redis_url, local_cache_mb=0)
                if beside is not None:
                    beside_url = stack.gateway(engine_url, redis_url, beside, local_cache_mb=0)
        input_ids = tokenize(bundle, texts)
        sources = Sources(
            bench, engine_url, gateway_url, bundle, texts, input_ids, bulk_connections, beside_url, stack.pids
        )
        return [throughput(sources), idle(sources)]


def throughput(sources: Sources) -> Result:
    """Texts a second under load, and how each contender filled the engine's runs."""
    bench, meter = sources.bench, RunMeter(sources.engine_url, pids=sources.pids)
    by_length = sorted(sources.input_ids, key=len)
    many, few = bench.connections, sources.bulk_connections
    loads = [
        (ENGINE_SINGLE, 1, engine_load(sources, 1, many)),
        (GATEWAY_SINGLE, 1, gateway_load(sources, 1, many)),
        (ENGINE_BATCH, BATCH, engine_load(sources, BATCH, few)),
        (GATEWAY_BATCH, BATCH, gateway_load(sources, BATCH, few)),
    ]
    if sources.beside_url is not None:
        loads.append((BESIDE_SINGLE, 1, gateway_load(sources, 1, many, sources.beside_url)))
    contenders = [
        Contender(GRAPH_ORDER, graph_load(sources, sources.input_ids, BATCH), BATCH, needs_warmup=False),
        Contender(GRAPH_SORTED, graph_load(sources, by_length, BATCH), BATCH, needs_warmup=False),
        *(Contender(name, meter.around(name, measure), size) for name, size, measure in loads),
    ]
    outcomes = alternate(contenders, bench.rounds, bench.console)
    lengths = [len(ids) for ids in sources.input_ids]
    title = (
        f"Uncached: {len(lengths):,} distinct texts of {min(lengths)} to {max(lengths)} tokens; singles at {many} "
        f"connections, requests of {BATCH} at {few}"
    )
    ratios = (*RATIOS, *BESIDE) if sources.beside_url is not None else RATIOS
    return Result(title, bench.machine, outcomes, ratios, figures=meter.figures())


def idle(sources: Sources) -> Result:
    """One text at a time on an otherwise idle machine."""
    bench, meter = sources.bench, RunMeter(sources.engine_url, pids=sources.pids)
    loads = {ENGINE_IDLE: engine_load(sources, 1, 1), GATEWAY_IDLE: gateway_load(sources, 1, 1)}
    differences: Sequence[Difference] = IDLE
    if sources.beside_url is not None:
        loads[BESIDE_IDLE] = gateway_load(sources, 1, 1, sources.beside_url)
        differences = (*IDLE, *BESIDE_IDLES)
    contenders = [
        Contender(GRAPH_SINGLE, graph_load(sources, sources.input_ids, 1), needs_warmup=False),
        *(Contender(name, meter.around(name, measure)) for name, measure in loads.items()),
    ]
    outcomes = alternate(contenders, bench.rounds, bench.console)
    figures = meter.cpu_figures()
    return Result("Idle: one text at a time", bench.machine, outcomes, differences=differences, figures=figures)


def graph_load(sources: Sources, input_ids: list[list[int]], batch: int) -> Callable[[], Measurement]:
    """One round of the bare graph."""
    task = GraphTask(str(sources.bundle), input_ids, batch, sources.bench.seconds)
    return lambda: task.measure(sources.bench.core)


def engine_load(sources: Sources, size: int, connections: int) -> Callable[[], Measurement]:
    """One round of requests with `size` texts each, straight at the engine. Only whole requests are sent."""
    groups = whole(sources.input_ids, size)
    requests = [http_request(sources.engine_url, "/vectors", vectors_body(ids), BINARY_TYPE) for ids in groups]
    return lambda: sources.bench.load.measure(sources.engine_url, requests, connections)


def gateway_load(
    sources: Sources, size: int, connections: int, gateway_url: str | None = None
) -> Callable[[], Measurement]:
    """The same texts through the gateway, computed each time."""
    url = gateway_url or sources.gateway_url
    model = model_of(url)
    requests = [
        http_request(url, "/v1/embeddings", embeddings_body(model, texts), headers=COMPUTE)
        for texts in whole(sources.texts, size)
    ]
    return lambda: sources.bench.load.measure(url, requests, connections)


def cpu_seconds_of(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used."""
    return sum(times.user + times.system for times in (psutil.Process(pid).cpu_times() for pid in pids))


def run_counts(engine_url: str) -> RunCounts:
    """What the engine has run so far, from its metrics; zeros where a metric is missing. Raises BenchmarkError."""
    content, _ = exchange(engine_url, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in content.decode().splitlines() if not line.startswith("#"))
    return RunCounts(*(float(values.get(f"dejavec_engine_{name}", 0)) for name in COUNTERS))
