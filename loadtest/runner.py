"""A whole load test: find the model, send the load, verify a share of what was served, report.

The one place where schedule, HTTP and figures meet.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import aiohttp

from loadtest.bench.machine import describe
from loadtest.client import Answer, EmbeddingsClient, first_model
from loadtest.open_loop import OpenLoop, Sample
from loadtest.report import Collector, Report, Settings, summarise
from loadtest.server_watch import TIMEOUT_S, ServerWatch
from loadtest.verify import Sampler, verify
from loadtest.workload import Arrival


@dataclass
class LoadTest:
    """What to run; `loop` and `collector` may be watched meanwhile."""

    settings: Settings  # an empty model name stands for the first that the server lists
    arrivals: Iterable[Arrival]
    api_key: str | None = None
    timeout_s: float = 30.0
    verify_share: float = 0.0
    fidelity: float = 0.92
    metrics_urls: dict[str, str] = field(default_factory=dict)  # by server, see ServerWatch; none: nothing is scraped

    def __post_init__(self) -> None:
        self.collector = Collector(self.settings.warmup, self.settings.warmup + self.settings.seconds)
        self.sampler = Sampler(self.verify_share, self.settings.seed)
        self.loop = OpenLoop(self._send, self.settings.max_in_flight, on_sample=self._keep)
        self._client: EmbeddingsClient | None = None
        self.interrupted = False

    async def run(self) -> Report:
        """Run to the end, or to Ctrl-C, which stops sending and reports the rest. Raises RequestFailed."""
        async with self._session() as session:
            settings = self.settings
            if not settings.model:
                settings = replace(settings, model=await first_model(session, settings.url))
            self._client = EmbeddingsClient(session, settings.url, settings.model)
            machine = describe(None, None, "open loop")  # before the load, which would be in its load average
            moment = datetime.now(UTC)
            events = asyncio.get_running_loop()
            events.add_signal_handler(signal.SIGINT, self._interrupt)
            try:
                async with self._watching() as watch:
                    await self.loop.run(self.arrivals)
            finally:
                events.remove_signal_handler(signal.SIGINT)
            verification = None
            if self.sampler.kept:
                verification = await verify(self._client, self.sampler.kept, self.fidelity)
        return summarise(
            settings,
            self.collector,
            self.loop.dropped,
            sending_s=self.loop.stopped_after_s,
            verification=verification,
            server=watch.result() if watch is not None else None,
            machine=machine,
            started=moment,
        )

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[ServerWatch | None]:
        """Scrape the servers for the block, on connections of its own."""
        if not self.metrics_urls:
            yield None
            return
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as own:  # without the API key: another server's
            watch = ServerWatch(self.metrics_urls, own)
            task = asyncio.create_task(watch.run())
            try:
                yield watch
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def _session(self) -> aiohttp.ClientSession:
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.settings.connections),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers=headers,
        )

    def _interrupt(self) -> None:
        self.interrupted = True
        self.loop.stop()

    async def _send(self, arrival: Arrival) -> Answer:
        assert self._client is not None
        return await self._client.embed(arrival.texts, self.settings.cache_control)

    def _keep(self, arrival: Arrival, sample: Sample) -> None:
        self.collector.add(sample, arrival)
        if sample.answer is not None and sample.due_s >= self.settings.warmup:
            self.sampler.offer(arrival.texts, sample.answer)
