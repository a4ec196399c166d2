"""The same single requests through the gateway, first without its cache, then with it: what repeats are worth."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from typing import Final
from urllib.parse import urlsplit

from loadtest.bench.processes import BenchmarkError, pinned
from loadtest.bench.stack import Stack
from loadtest.bench.wire import embeddings_body, model_of
from loadtest.figures import latencies
from loadtest.study.backends.worker import cpu_seconds_of_children
from loadtest.study.figures import Cached

CONNECTIONS: Final = 16
REPEATS: Final = 0.68  # the share of hits of the reference figure
TIMEOUT_S: Final = 60.0
OFF, ON = "no-store", "normal"


def measure(bundle: Path, stream: Sequence[str], core: int | None, client_core: int | None) -> Cached:
    """Start Redis, an engine and a gateway on `core`, with their defaults. Raises BenchmarkError."""
    with Stack(core) as stack, pinned(client_core):
        url = stack.gateway(stack.engine(bundle), stack.redis())
        send(url, [f"warm-up {number}" for number in range(2 * CONNECTIONS)], OFF)
        uncached, cached = (send(url, stream, control) for control in (OFF, ON))
    return Cached(
        requests=len(stream),
        hit_share=cached[2] / len(stream),
        uncached_per_s=len(stream) / uncached[0],
        cached_per_s=len(stream) / cached[0],
        uncached_p99_ms=uncached[1],
        cached_p99_ms=cached[1],
        connections=CONNECTIONS,
    )


def send(url: str, stream: Sequence[str], control: str) -> tuple[float, float, int]:
    """Send each text as one request, in order: CPU seconds of the servers, p99 in wall ms, hits. Raises BenchmarkError.

    The servers must be children of this process, and its only busy ones.
    """
    address, model, kept = urlsplit(url), model_of(url), local()
    headers = {"content-type": "application/json", "x-cache-control": control}

    def ask(text: str) -> tuple[float, bool]:
        if not hasattr(kept, "connection"):
            kept.connection = HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT_S)
        started_s = time.perf_counter()
        kept.connection.request("POST", "/v1/embeddings", embeddings_body(model, [text]), headers)
        response = kept.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise BenchmarkError(f"the gateway answers {response.status}: {content[:200]!r}")
        return time.perf_counter() - started_s, response.headers.get("x-cache", "miss") != "miss"

    used_s = cpu_seconds_of_children()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(ask, stream))
    used_s = cpu_seconds_of_children() - used_s
    spread = latencies([seconds for seconds, _ in answers])
    assert spread is not None
    return max(used_s, 1e-9), spread.p99_ms, sum(hit for _, hit in answers)
