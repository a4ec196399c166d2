"""Cached single texts: the gateway's L0 and Redis hits against bare apps on the same server software.

One worker each, all servers on one core, the same generator for all. L0's entries have a TTL of a day, so
that none runs out in mid-measurement; everything else is at its default.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from loadtest.bench.generator import Measurement
from loadtest.bench.options import Bench, common_options
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.rounds import Contender, Ratio, Result, alternate
from loadtest.bench.stack import Stack, store_bare_vectors
from loadtest.bench.wire import batches, embeddings_body, exchange, http_request, model_of
from loadtest.display import step
from loadtest.tiers import CACHE_HEADER, UNSTATED

PATH = "/v1/embeddings"
FILL_BATCH = 32
FILL_TIMEOUT_S = 60.0
FILL_PAUSE_S = 0.2
DAY_S = 86_400

L0, EXACT = "gateway, L0 hits", "gateway, Redis hits"
ECHO, ROUTE, ROUTE_GET = "bare ASGI echo", "bare FastAPI route", "bare FastAPI route + one GET"

RATIOS = (
    Ratio("L0 hits / bare FastAPI route", L0, ROUTE, 0.6),
    Ratio("Redis hits / bare FastAPI route + one GET", EXACT, ROUTE_GET, 0.7),
    Ratio("L0 hits / bare ASGI echo", L0, ECHO, 0.45),
    Ratio("Redis hits / bare ASGI echo", EXACT, ECHO, 0.30),
)


@dataclass(frozen=True, slots=True)
class Gateways:
    """Where the two gateways and the bare route's Redis answer."""

    local: str
    exact: str
    redis: str


@click.command("gateway")
@click.option("--l0-url", help="A running gateway with L0, instead of starting one.")
@click.option("--exact-url", help="A running gateway with L0 off (local_cache_mb = 0) and Redis.")
@click.option("--redis-url", help="A running Redis, instead of starting one; `bare:*` keys are written to it.")
@common_options
def gateway(bench: Bench, *, l0_url: str | None, exact_url: str | None, redis_url: str | None) -> Sequence[Result]:
    """Cached single texts a second, against bare apps on the same server.

    Starts Redis, the engine, two gateways (one with L0, one without) and three bare apps on --core, fills both
    caches, and measures all of them in alternating rounds. Running gateways can be named instead; pin them
    yourself then, to the same core.
    """
    if (l0_url is None) != (exact_url is None):
        raise click.UsageError("name both --l0-url and --exact-url, or neither")
    texts = bench.texts()
    with Stack(bench.core) as stack:
        with step(bench.console, "starting the servers"):
            redis = redis_url or stack.redis()
            if l0_url is not None and exact_url is not None:
                gateways = Gateways(l0_url, exact_url, redis)
            else:
                gateways = start_gateways(stack, bench, redis)
        with step(bench.console, "filling the caches"):
            fill(gateways.local, texts, "local")
            fill(gateways.exact, texts, "exact")
        contenders = [
            cached(L0, bench, gateways.local, texts),
            cached(EXACT, bench, gateways.exact, texts),
            *bare_contenders(stack, bench, redis, texts),
        ]
        outcomes = alternate(contenders, bench.rounds, bench.console)
    title = f"Cached single texts, {bench.connections} connections, {len(texts):,} distinct texts"
    return [Result(title, bench.machine, outcomes, RATIOS)]


def start_gateways(stack: Stack, bench: Bench, redis_url: str) -> Gateways:
    """One engine and two gateways on one Redis."""
    engine_url = stack.engine(bench.bundle)
    local = stack.gateway(engine_url, redis_url, local_cache_ttl_seconds=DAY_S, cache_ttl_seconds=DAY_S)
    exact = stack.gateway(engine_url, redis_url, local_cache_mb=0, cache_ttl_seconds=DAY_S)
    return Gateways(local, exact, redis_url)


def bare_contenders(stack: Stack, bench: Bench, redis_url: str, texts: Sequence[str]) -> list[Contender]:
    """The three bare apps, sent the same requests."""
    store_bare_vectors(redis_url, texts)
    urls = {
        ECHO: stack.bare_app("echo"),
        ROUTE: stack.bare_app("route"),
        ROUTE_GET: stack.bare_app("route_get", redis_url),
    }
    return [Contender(name, load_of(bench, url, texts, "bare")) for name, url in urls.items()]


def cached(name: str, bench: Bench, url: str, texts: Sequence[str]) -> Contender:
    """A gateway whose every answer should come from a cache."""
    return Contender(name, load_of(bench, url, texts, model_of(url)))


def load_of(bench: Bench, url: str, texts: Sequence[str], model: str) -> Callable[[], Measurement]:
    """One round of single-text requests over all connections."""
    requests = [http_request(url, PATH, embeddings_body(model, [text])) for text in texts]
    return lambda: bench.load.measure(url, requests, bench.connections)


def fill(url: str, texts: Sequence[str], tier: str) -> None:
    """Request all texts until a whole pass is answered by `tier`. Raises BenchmarkError when that never comes."""
    model = model_of(url)
    deadline = time.monotonic() + FILL_TIMEOUT_S
    while (served := _tiers_of_a_pass(url, model, texts)) != {tier}:
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{url} should answer from its {tier} tier, but keeps answering from: {', '.join(sorted(served))}"
            )
        time.sleep(FILL_PAUSE_S)  # write-back happens after the reply


def _tiers_of_a_pass(url: str, model: str, texts: Sequence[str]) -> set[str]:
    tiers = set()
    for batch in batches(texts, FILL_BATCH):
        _, headers = exchange(url, PATH, embeddings_body(model, batch))
        tiers.add(headers.get(CACHE_HEADER, UNSTATED))
    return tiers
