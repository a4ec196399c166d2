"""What gateway and engine say of themselves while the load runs: their /metrics, once a second.

Counters become rates between two scrapes, histograms the mean of what was counted between them. What a server does not
give stays out; nothing is estimated. The scrapes are part of the load: each costs the gateway about a millisecond.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from common.prometheus_text import Samples
from loadtest.exposition import MetricsUnreachable, fetch

PERIOD_S = 1.0
MAX_SCRAPES = 4000  # beyond that every second one is left out, and so on
TIMEOUT_S = 5.0
GATEWAY, ENGINE, GENERATOR = "gateway", "engine", "generator"
ENGINE_MARK = "dejavec_engine_tokens_total"

Read = Callable[[Samples, Samples, float], float | None]


def _gauge(name: str) -> Read:
    return lambda now, _before, _s: now.total(name)


def _rate(name: str) -> Read:
    def read(now: Samples, before: Samples, seconds: float) -> float | None:
        new, old = now.total(name), before.total(name)
        return None if new is None or old is None or new < old or seconds <= 0 else (new - old) / seconds

    return read


def _mean(name: str, times: float = 1.0) -> Read:
    def read(now: Samples, before: Samples, _s: float) -> float | None:
        sums, counts = ((now.total(name + end), before.total(name + end)) for end in ("_sum", "_count"))
        if None in (*sums, *counts):
            return None
        more = counts[0] - counts[1]  # type: ignore[operator]
        return times * (sums[0] - sums[1]) / more if more > 0 else None  # type: ignore[operator]

    return read


SERIES: dict[str, dict[str, Read]] = {
    GATEWAY: {
        "cpu_cores": _rate("process_cpu_seconds_total"),
        "in_flight": _gauge("dejavec_requests_in_flight"),
        "engine_call_ms": _mean("dejavec_engine_call_seconds", 1000),
        "redis_lookup_ms": _mean("dejavec_exact_lookup_seconds", 1000),
        "redis_ok": _gauge("dejavec_redis_ok"),
        "redis_errors_per_s": _rate("dejavec_exact_errors_total"),
        "resident_mb": lambda now, _b, _s: _scaled(now.total("process_resident_memory_bytes"), 1e-6),
    },
    ENGINE: {
        "cpu_cores": _rate("process_cpu_seconds_total"),
        "queue_texts": _gauge("embedding_batch_queue_size"),
        "queue_ms": _mean("dejavec_engine_queue_seconds", 1000),
        "batch_texts": _mean("dejavec_engine_batch_rows"),
        "run_ms": _mean("dejavec_engine_run_seconds", 1000),
        "tokens_per_s": _rate("dejavec_engine_tokens_total"),
        "resident_mb": lambda now, _b, _s: _scaled(now.total("process_resident_memory_bytes"), 1e-6),
    },
}


@dataclass(frozen=True, slots=True)
class ServerSeries:
    """Series by server and name over `at_s` (seconds from the start); `missing` says what was not read, and why."""

    at_s: list[float]
    series: dict[str, dict[str, list[float | None]]]
    missing: dict[str, str]

    def mean(self, server: str, name: str, since_s: float = 0.0) -> float | None:
        """The mean of what was read from `since_s` on; None where nothing was."""
        values = self.series.get(server, {}).get(name) or [None] * len(self.at_s)
        found = [value for at, value in zip(self.at_s, values, strict=True) if value is not None and at >= since_s]
        return sum(found) / len(found) if found else None


@dataclass
class ServerWatch:
    """Scrapes until it is cancelled; `urls` by server, an empty one where none is known."""

    urls: dict[str, str]
    session: aiohttp.ClientSession
    clock: Callable[[], float] = time.perf_counter
    at_s: list[float] = field(default_factory=list)
    series: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        """Scrape every second, from the first on that answers. Ends by cancellation."""
        started = self.clock()
        before = await self._scrape()
        before_s, before_cpu = self.clock(), time.process_time()
        while True:
            await asyncio.sleep(PERIOD_S)
            now = await self._scrape()
            now_s, cpu = self.clock(), time.process_time()
            self._keep(before_s - started, before, now, now_s - before_s, (cpu - before_cpu) / (now_s - before_s))
            before, before_s, before_cpu = now, now_s, cpu

    def result(self) -> ServerSeries:
        """All that was read; series without a single value are left out."""
        kept = {
            server: {name: values for name, values in series.items() if any(value is not None for value in values)}
            for server, series in self.series.items()
        }
        step = 1 + len(self.at_s) // MAX_SCRAPES
        return ServerSeries(
            [round(at, 3) for at in self.at_s[::step]],
            {server: {name: values[::step] for name, values in series.items()} for server, series in kept.items()},
            {server: why for server, why in self.missing.items() if not kept.get(server)},
        )

    async def _scrape(self) -> dict[str, Samples]:
        found = {}
        for server, url in self.urls.items():
            if not url:
                self.missing[server] = "no address: give --engine-url"
                continue
            try:
                metrics = await fetch(self.session, url)
            except MetricsUnreachable as error:
                self.missing.setdefault(server, str(error))
                continue
            if server == ENGINE and metrics.total(ENGINE_MARK) is None:
                self.missing.setdefault(server, "what answers there is no engine of dejavec")
                continue
            found[server] = metrics
        return found

    def _keep(
        self, at_s: float, before: dict[str, Samples], now: dict[str, Samples], seconds: float, own_cores: float
    ) -> None:
        for server, reads in SERIES.items():
            for name, read in reads.items():
                known = server in before and server in now
                value = read(now[server], before[server], seconds) if known else None
                self._append(server, name, value)
        self._append(GENERATOR, "cpu_cores", own_cores)
        self.at_s.append(at_s)

    def _append(self, server: str, name: str, value: float | None) -> None:
        values = self.series.setdefault(server, {}).setdefault(name, [])
        values.append(None if value is None else round(value, 4))


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
