"""The ingestion of a text file: read, send, write, in order; the pipeline behind `dejavec ingest`.

    read_chunks ──▶ one task a chunk, as many at once as the pacer allows ──▶ in the order of the file ──▶ Output

Requests finish in any order and are written in the order of their lines, so a resumed run continues exactly where the
last commit ended, once it has found that the input before it is the same; that of a complete one, where the input has
grown. Retries, time-outs and the circuit breaker are the client's; `on_retry` reports
them to the pacer.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from common.breaker import BreakerPolicy
from common.credentials import shown_url
from common.texts import BadLine, Format, InputChanged, Record, TextFile, TextForm
from gateway.client.client import AsyncClient
from gateway.client.errors import ClientError, InvalidReply
from gateway.client.journal import CannotResume, Journal, Origin
from gateway.client.lines import Chunk, read_chunks, read_in_thread
from gateway.client.narrowing import embed_records
from gateway.client.output import Answer, Output, Paths
from gateway.client.pacer import Pacer
from gateway.client.retry import OnRetry, RetryPolicy
from gateway.client.wire import EmbedResult

COMMIT_EVERY_S = 2.0  # what a kill may cost: work of so long is done again, mostly out of the cache
CHUNK_BYTES = 1 << 20  # lines of a chunk, so that a request stays far below a gateway's limit on bodies
WINDOW = 4  # chunks read ahead of the one being written, for each request allowed at once


class Observer(Protocol):
    """Is called with the progress of an ingestion."""

    def began(self, journal: Journal, file: TextFile) -> None:
        """Input and output are open; `journal` has what earlier runs have done."""

    def wrote(self, journal: Journal, limit: int) -> None:
        """More is written; `limit` requests are allowed at once now."""

    def waits(self, error: ClientError, wait_s: float) -> None:
        """A request failed and is made again after `wait_s`."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """The options of every request; the same for the whole file, so part of what a resumed run must repeat."""

    model: str | None = None
    dimensions: int | None = None
    prompt_name: str | None = None
    cache_control: str | None = None
    min_fidelity: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ingest, from where to where, and how hard."""

    source: Path
    out: Path
    url: str
    api_key: str | None = None
    fallback_url: str | None = None
    form: TextForm = field(default_factory=lambda: TextForm(Format.JSONL, id_field="id"))
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    batch: int = 64
    concurrency: int = 8
    patience_s: float = 300.0
    start_over: bool = False


async def ingest(plan: Plan, observer: Observer) -> Journal:
    """Do what is left of the plan; the journal of the complete output.

    Whatever ends it early leaves an output that the same plan resumes. Raises CannotResume, ClientError, SourceError,
    OSError.
    """
    with TextFile(plan.source, plan.form) as file:
        async with AsyncClient(plan.url, api_key=plan.api_key, on_retry=observer.waits) as client:
            info = await client.info(plan.embed.model)
        options = {**asdict(plan.embed), **asdict(plan.form), "output": plan.out.suffix}
        dimensions = options.pop("dimensions") or info.dimensions
        origin = Origin(info.model, info.fingerprint, dimensions, options)
        with Output(Paths(plan.out), origin, start_over=plan.start_over) as output:
            try:
                file.skip_to(output.journal.position)
                if output.journal.complete and not file.at_end():
                    output.reopen()
                observer.began(output.journal, file)
                if not output.journal.complete:
                    pacer = Pacer(plan.concurrency, time.monotonic)
                    async with _client(plan, info.fingerprint, pacer, observer) as client:
                        await _Pipeline(plan, client, pacer, output, observer).run(file)
            except InputChanged as error:
                raise CannotResume(str(error)) from None
            return output.journal


def patient_client(
    url: str,
    *,
    api_key: str | None,
    fallback_url: str | None,
    fingerprint: str,
    patience_s: float,
    connections: int,
    on_retry: OnRetry,
) -> AsyncClient:
    """A client that waits out anything that may pass, for `patience_s` a request, and takes one fingerprint alone."""
    return AsyncClient(
        url,
        api_key=api_key,
        fallback_url=fallback_url,
        fingerprint=fingerprint,
        retry=RetryPolicy(attempts=None, deadline_s=patience_s, max_retry_after_s=patience_s, wait_for_circuit=True),
        breaker=BreakerPolicy(open_s=5.0),
        max_connections=connections,
        on_retry=on_retry,
    )


def _client(plan: Plan, fingerprint: str, pacer: Pacer, observer: Observer) -> AsyncClient:
    def on_retry(error: ClientError, wait_s: float) -> None:
        pacer.overloaded()
        observer.waits(error, wait_s)

    return patient_client(
        plan.url,
        api_key=plan.api_key,
        fallback_url=plan.fallback_url,
        fingerprint=fingerprint,
        patience_s=plan.patience_s,
        connections=plan.concurrency,
        on_retry=on_retry,
    )


class _Pipeline:
    """One run: two tasks, one that reads and sends, one that writes in order."""

    def __init__(self, plan: Plan, client: AsyncClient, pacer: Pacer, output: Output, observer: Observer) -> None:
        self._plan = plan
        self._client = client
        self._pacer = pacer
        self._output = output
        self._observer = observer
        self._sent: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue(WINDOW * plan.concurrency)

    async def run(self, file: TextFile) -> None:
        """Ingest what is left. What was answered in order is committed, however this ends."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(file, group))
                group.create_task(self._write_all())
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from None
        finally:
            with suppress(OSError):  # a full disk is already on its way up as the reason
                self._output.commit()
        file.require_whole()
        self._output.complete()

    async def _send_all(self, file: TextFile, group: asyncio.TaskGroup) -> None:
        chunks = read_chunks(file, max_texts=self._plan.batch, max_bytes=CHUNK_BYTES)
        if file.may_wait:
            async with aclosing(read_in_thread(chunks)) as following:
                async for chunk in following:
                    await self._send(chunk, group)
        else:
            for chunk in chunks:
                await self._send(chunk, group)
        await self._sent.put(None)

    async def _send(self, chunk: Chunk, group: asyncio.TaskGroup) -> None:
        await self._pacer.acquire()
        await self._sent.put(group.create_task(self._answer(chunk)))

    async def _write_all(self) -> None:
        committed_at = time.monotonic()
        while (task := await self._sent.get()) is not None:
            self._output.append(await task)
            if time.monotonic() - committed_at >= COMMIT_EVERY_S:
                # In the loop's own thread: replies wait some milliseconds, and no commit can meet another.
                self._output.commit()
                committed_at = time.monotonic()
            self._observer.wrote(self._output.journal, self._pacer.limit)

    async def _answer(self, chunk: Chunk) -> Answer:
        try:
            results, refused = await self._embed(chunk.records)
        finally:
            self._pacer.release()
        faulty = {bad.line for bad in refused}
        dimensions = self._output.journal.origin.dimensions
        return Answer(
            records=[record for record in chunk.records if record.line not in faulty],
            vectors=np.concatenate([np.empty((0, dimensions), np.float32), *(r.vectors for r in results)]),
            tiers=[tier for result in results for tier in result.tiers],
            tokens=sum(result.usage_tokens for result in results),
            bad=sorted([*chunk.bad, *refused], key=lambda bad: bad.line),
            blank_lines=chunk.blank_lines,
            end=chunk.end,
        )

    async def _embed(self, records: Sequence[Record]) -> tuple[list[EmbedResult], list[BadLine]]:
        results, refused = await embed_records(self._client, records, **asdict(self._plan.embed))
        for result in results:
            dimensions = result.vectors.shape[1]
            if dimensions != self._output.journal.origin.dimensions:
                address = shown_url(self._plan.url)
                raise InvalidReply(f"{address}: vectors of {dimensions} dimensions, not those of /info")
            self._pacer.went_well()
        return results, refused


def first_failure(failure: BaseException) -> BaseException:
    """The first failure inside groups of groups; the others are its consequences or the same again."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
