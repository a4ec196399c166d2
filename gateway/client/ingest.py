"""The ingestion of a JSONL file: read, send, write, in order; the pipeline behind `dejavec ingest`.

    read_chunks ──▶ one task a chunk, as many at once as the pacer allows ──▶ in the order of the file ──▶ Output

Requests finish in any order and are written in the order of their lines, so a resumed run continues exactly where the
last commit ended. Retries, time-outs and the circuit breaker are the client's; `on_retry` reports
them to the pacer.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from common.breaker import BreakerPolicy
from common.credentials import shown_url
from gateway.client.client import AsyncClient
from gateway.client.errors import ClientError, InvalidReply, RequestRefused
from gateway.client.journal import CannotResume, Journal, Origin, mark_of
from gateway.client.lines import BadLine, Chunk, LineFormat, Record, read_chunks
from gateway.client.output import Answer, Output, Paths
from gateway.client.pacer import Pacer
from gateway.client.retry import RetryPolicy
from gateway.client.wire import EmbedResult

COMMIT_EVERY_S = 2.0  # what a kill may cost: work of so long is done again, mostly out of the cache
CHUNK_BYTES = 1 << 20  # lines of a chunk, so that a request stays far below a gateway's limit on bodies
WINDOW = 4  # chunks read ahead of the one being written, for each request allowed at once


class Observer(Protocol):
    """Is called with the progress of an ingestion."""

    def began(self, journal: Journal) -> None:
        """The output is open; `journal` has what an earlier run has done."""

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
    form: LineFormat = field(default_factory=LineFormat)
    embed: EmbedOptions = field(default_factory=EmbedOptions)
    batch: int = 64
    concurrency: int = 8
    patience_s: float = 300.0
    start_over: bool = False


async def ingest(plan: Plan, observer: Observer) -> Journal:
    """Do what is left of the plan; the journal of the complete output.

    Whatever ends it early leaves an output that the same plan resumes. Raises CannotResume, ClientError, OSError.
    """
    with plan.source.open("rb") as file:
        async with AsyncClient(plan.url, api_key=plan.api_key, on_retry=observer.waits) as client:
            info = await client.info()
        options = {**asdict(plan.embed), **asdict(plan.form)}
        dimensions = options.pop("dimensions") or info.dimensions
        origin = Origin(mark_of(file), info.model, info.fingerprint, dimensions, options)
        with Output(Paths(plan.out), origin, start_over=plan.start_over) as output:
            observer.began(output.journal)
            if not output.journal.complete:
                pacer = Pacer(plan.concurrency, time.monotonic)
                async with _patient_client(plan, info.fingerprint, pacer, observer) as client:
                    await _Pipeline(plan, client, pacer, output, observer).run(file)
            return output.journal


def _patient_client(plan: Plan, fingerprint: str, pacer: Pacer, observer: Observer) -> AsyncClient:
    """A client that waits out anything that may pass, for as long as the plan has patience."""

    def on_retry(error: ClientError, wait_s: float) -> None:
        pacer.overloaded()
        observer.waits(error, wait_s)

    return AsyncClient(
        plan.url,
        api_key=plan.api_key,
        fallback_url=plan.fallback_url,
        fingerprint=fingerprint,
        retry=RetryPolicy(
            attempts=None, deadline_s=plan.patience_s, max_retry_after_s=plan.patience_s, wait_for_circuit=True
        ),
        breaker=BreakerPolicy(open_s=5.0),
        max_connections=plan.concurrency,
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

    async def run(self, file: BinaryIO) -> None:
        """Ingest what is left. What was answered in order is committed, however this ends."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all(file, group))
                group.create_task(self._write_all())
        except BaseExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            with suppress(OSError):  # a full disk is already on its way up as the reason
                self._output.commit()
        size = self._output.journal.origin.input.size
        if self._output.journal.position.offset != size or os.fstat(file.fileno()).st_size != size:
            raise CannotResume(f"{self._plan.source} was changed while it was read")
        self._output.complete()

    async def _send_all(self, file: BinaryIO, group: asyncio.TaskGroup) -> None:
        journal = self._output.journal
        chunks = read_chunks(
            file,
            journal.position,
            journal.origin.input.size,
            self._plan.form,
            max_texts=self._plan.batch,
            max_bytes=CHUNK_BYTES,
        )
        for chunk in chunks:
            await self._pacer.acquire()
            await self._sent.put(group.create_task(self._answer(chunk)))
        await self._sent.put(None)

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
            end=chunk.end,
        )

    async def _embed(self, records: Sequence[Record]) -> tuple[list[EmbedResult], list[BadLine]]:
        """Results that together hold the records in order, without those the gateway refuses, which are narrowed down.

        A request refused for its input is halved until the lines at fault stand alone.
        """
        if not records:
            return [], []
        try:
            result = await self._client.embed([record.text for record in records], **asdict(self._plan.embed))
        except RequestRefused as refusal:
            if not _is_about_input(refusal):
                raise
            if len(records) == 1:
                return [], [BadLine(records[0].line, f"refused by the gateway: {refusal.message}")]
            middle = len(records) // 2
            left, left_refused = await self._embed(records[:middle])
            right, right_refused = await self._embed(records[middle:])
            return left + right, left_refused + right_refused
        if result.vectors.shape[1] != self._output.journal.origin.dimensions:
            raise InvalidReply(
                f"{shown_url(self._plan.url)}: vectors of {result.vectors.shape[1]} dimensions, not those of /info"
            )
        self._pacer.went_well()
        return [result], []


def _is_about_input(refusal: RequestRefused) -> bool:
    """Whether a refusal may be the fault of single texts, and not of the options or the address."""
    return refusal.status == 413 or (refusal.param or "").startswith("input")


def _first(failure: BaseException) -> BaseException:
    """The first failure inside groups of groups; the others are its consequences or the same again."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
