"""Sends streams through the whole product in several settings, each to processes that were started for it alone.

A closed loop: so many connections, each sending its next request when the last was answered, all in the stream's
order. CPU time is the operating system's, of gateway, engine and Redis with what is left to do after the last reply;
hits that are checked are computed again after it was read.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console
from rich.markup import escape

from loadtest.bench.norepeat import NO_CACHE_AT_ALL, SETTLE_S, cpu_seconds
from loadtest.bench.processes import BenchmarkError, pinned
from loadtest.bench.replays.report import Pass, Replayed
from loadtest.bench.replays.sources import Stream
from loadtest.bench.stack import Stack, Up
from loadtest.client import EmbeddingsClient, RequestFailed, first_model
from loadtest.figures import latencies
from loadtest.tiers import HITS
from loadtest.verify import Sampler, Verification, verify

REQUEST_TIMEOUT_S: Final = 120.0
WARMUP: Final = 64  # texts that are no stream's, computed before anything counts
SEMANTIC: Final = HITS[-1]


@dataclass(frozen=True, slots=True)
class Setting:
    """How the product is set, and what its requests ask of the cache."""

    name: str
    semantic_mode: str
    cache_control: str | None = None


CACHE_OFF: Final = Setting("cache off", "off", NO_CACHE_AT_ALL["x-cache-control"])
EXACT_ONLY: Final = Setting("exact only", "off")
EVERYTHING: Final = Setting("everything on", "auto")
SEMANTIC_ON: Final = Setting("semantic_mode on", "on")
SETTINGS: Final = (CACHE_OFF, EXACT_ONLY, EVERYTHING)  # and SEMANTIC_ON where it is asked for


@dataclass(frozen=True, slots=True)
class Plan:
    """How streams are sent: requests at a time, rounds, share of the hits that is checked, and against which cosine.

    Requests of several texts have connections of their own number: too many would wait past their deadline. Of semantic
    hits all are checked, where any are.
    """

    connections: int = 8
    bulk_connections: int = 2
    rounds: int = 1
    verify_share: float = 0.25
    fidelity: float = 0.92
    settings: tuple[Setting, ...] = SETTINGS

    def at_once(self, stream: Stream) -> int:
        """Requests of a stream that are sent at a time."""
        return self.connections if stream.size == 1 else self.bulk_connections


def replay(
    streams: Sequence[Stream],
    plan: Plan,
    *,
    bundle: Path,
    core: int | None,
    client_core: int | None,
    console: Console,
) -> list[Replayed]:
    """Each stream in each setting, `rounds` times over. Raises BenchmarkError."""
    passes: dict[tuple[str, str], list[Pass]] = {}
    for number in range(plan.rounds):
        for stream in streams:
            first = number % len(plan.settings)
            for setting in plan.settings[first:] + plan.settings[:first]:
                console.print(f"[dim]round {number + 1} of {plan.rounds}: {escape(stream.name)}, {setting.name}[/]")
                with Stack(core) as stack:
                    up = stack.up("product", bundle, semantic_mode=setting.semantic_mode)
                    with pinned(client_core):
                        one = asyncio.run(send(up, stream, setting, plan))
                passes.setdefault((stream.name, setting.name), []).append(one)
    return [
        Replayed(
            stream.name,
            setting.name,
            len(stream.texts),
            stream.size,
            plan.at_once(stream),
            stream.repeat_share,
            passes[stream.name, setting.name],
        )
        for stream in streams
        for setting in plan.settings
    ]


async def send(up: Up, stream: Stream, setting: Setting, plan: Plan) -> Pass:
    """The whole stream once. Raises BenchmarkError where the product does not answer or is started again meanwhile."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=plan.at_once(stream))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            client = EmbeddingsClient(session, up.url, await first_model(session, up.url))
            for number in range(WARMUP):
                await client.embed([f"a text to warm up with, number {number}"], CACHE_OFF.cache_control)
        except RequestFailed as error:
            raise BenchmarkError(f"the gateway does not answer: {error}") from None
        sent = Sent(client, setting.cache_control, Sampler(plan.verify_share, always=frozenset({SEMANTIC})))
        before, started_s = cpu_seconds(up.pid), time.perf_counter()
        await sent.all(iter(stream.requests), plan.at_once(stream))
        wall_s = time.perf_counter() - started_s
        await asyncio.sleep(SETTLE_S)
        after = cpu_seconds(up.pid)
        if before.keys() != after.keys():
            raise BenchmarkError(f"a process of the product was started again during {stream.name}, {setting.name}")
        checked = await verify(client, sent.sampler.kept, plan.fidelity) if sent.sampler.kept else None
    cpu_s = {name: after[name] - before[name] for name in before}
    return sent.passed(cpu_s, wall_s, checked)


class Sent:
    """What came back of a stream's requests."""

    def __init__(self, client: EmbeddingsClient, cache_control: str | None, sampler: Sampler) -> None:
        self.sampler = sampler
        self._client = client
        self._cache_control = cache_control
        self._latencies_s: list[float] = []
        self._tiers: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    async def all(self, requests: Iterator[Sequence[str]], connections: int) -> None:
        """Send all, so many at a time."""
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._one_connection(requests))

    async def _one_connection(self, requests: Iterator[Sequence[str]]) -> None:
        for texts in requests:
            started_s = time.perf_counter()
            try:
                answer = await self._client.embed(texts, self._cache_control)
            except RequestFailed as error:
                self._failed[str(error)] += 1
                continue
            self._latencies_s.append(time.perf_counter() - started_s)
            self._tiers.update(answer.tiers)
            self.sampler.offer(texts, answer)

    def passed(self, cpu_s: Mapping[str, float], wall_s: float, checked: Verification | None) -> Pass:
        """The figures. Raises BenchmarkError where nothing was answered."""
        spread = latencies(self._latencies_s)
        if spread is None:
            raise BenchmarkError(f"no request was answered: {dict(self._failed)}")
        return Pass(dict(cpu_s), dict(self._tiers), wall_s, spread, dict(self._failed), checked)
