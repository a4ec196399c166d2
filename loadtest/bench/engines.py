"""Uncached texts through one gateway with one engine on a core, two on a core each, and one on both cores.

Where others use the cores too, CPU time a text is what can be compared: that it is the same for one engine and for two
says that a second one costs nothing but its cores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from loadtest.bench.capacity import cpu_seconds, texts_served
from loadtest.bench.engine import BATCH, COMPUTE
from loadtest.bench.generator import Measurement
from loadtest.bench.options import Bench, common_options
from loadtest.bench.rounds import Contender, Ratio, Result, alternate
from loadtest.bench.stack import Stack, check_bundle
from loadtest.bench.wire import embeddings_body, http_request, model_of, whole
from loadtest.display import step

CONNECTIONS: Final = 8  # that send requests of 32
ONE, TWO, WIDE = "one engine on one core", "two engines, a core each", "one engine on both cores"
RATIOS: Final = (
    Ratio("two engines / one engine", TWO, ONE),
    Ratio("two engines / one engine on both cores", TWO, WIDE),
)


@click.command("engines")
@common_options
def engines(bench: Bench) -> Sequence[Result]:
    """Uncached texts a second with one engine and with two, in requests of 32.

    Needs --core and --generator-core, which are the engines' cores; generator, gateways and Redis take their part of
    both, so that twice as many engines cannot be twice as fast here.
    """
    if bench.core is None or bench.generator_core is None or bench.core == bench.generator_core:
        raise click.UsageError("give --core and --generator-core, and two different ones")
    bundle, texts = check_bundle(bench.bundle), bench.texts()
    with Stack(bench.core) as one, Stack(bench.generator_core) as two, Stack() as both:
        with step(bench.console, "starting the servers"):
            first, second, wide = one.engine(bundle), two.engine(bundle), both.engine(bundle)
            redis_url = both.redis()
            urls = {ONE: [first], TWO: [first, second], WIDE: [wide]}
            gateways = {name: both.gateway(at, redis_url, local_cache_mb=0) for name, at in urls.items()}
        meter = CpuMeter([*one.pids, *two.pids, *both.pids])
        loads = {name: meter.around(name, url, load_of(bench, url, texts)) for name, url in gateways.items()}
        contenders = [Contender(name, load, BATCH) for name, load in loads.items()]
        outcomes = alternate(contenders, bench.rounds, bench.console)
    title = f"Uncached, requests of {BATCH} at {CONNECTIONS} connections, {len(texts):,} distinct texts"
    return [Result(title, bench.machine, outcomes, RATIOS, figures=meter.figures())]


@dataclass(frozen=True, slots=True)
class CpuMeter:
    """CPU seconds of all servers, and texts answered, by contender."""

    pids: Sequence[int]
    used: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def around(self, name: str, url: str, measure: Callable[[], Measurement]) -> Callable[[], Measurement]:
        """The same round, counted."""

        def metered() -> Measurement:
            before = sum(map(cpu_seconds, self.pids)), texts_served(url)
            measurement = measure()
            after = sum(map(cpu_seconds, self.pids)), texts_served(url)
            self.used.setdefault(name, []).append((after[0] - before[0], after[1] - before[1]))
            return measurement

        return metered

    def figures(self) -> dict[str, float]:
        """CPU milliseconds a text: of all rounds the least, since what else runs only adds."""
        least = {name: min(cpu_s / texts for cpu_s, texts in rounds if texts) for name, rounds in self.used.items()}
        return {f"CPU of all servers, ms a text, {name}": 1000 * each for name, each in least.items()}


def load_of(bench: Bench, url: str, texts: Sequence[str]) -> Callable[[], Measurement]:
    """One round through a gateway, computed each time."""
    model = model_of(url)
    bodies = [embeddings_body(model, group) for group in whole(texts, BATCH)]
    requests = [http_request(url, "/v1/embeddings", body, headers=COMPUTE) for body in bodies]
    return lambda: bench.load.measure(url, requests, CONNECTIONS)
