"""Vectors through a gateway: the client library's retries, breaker and pacing, one client for each actor.

The exact cache is the gateway's, so all actors share it, and what is computed here is a hit for everybody else.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict

import numpy as np

from bulk.job import GatewayWay
from bulk.vectors import Embedded
from common.texts import BadLine, Record
from gateway.client.client import AsyncClient
from gateway.client.errors import ClientError, InvalidReply
from gateway.client.ingest import EmbedOptions, first_failure, patient_client
from gateway.client.journal import Origin
from gateway.client.narrowing import embed_records
from gateway.client.pacer import Pacer
from gateway.client.wire import EmbedResult, GatewayInfo, split


async def model_of(way: GatewayWay, model: str | None) -> GatewayInfo:
    """What the gateway serves. Raises ClientError."""
    async with AsyncClient(way.url, api_key=way.api_key) as client:
        return await client.info(model)


class GatewayEmbedder:
    """Embeds a part's records; use `open` and `close` on one event loop."""

    def __init__(self, way: GatewayWay, origin: Origin, embed: EmbedOptions) -> None:
        self._way = way
        self._origin = origin
        self._embed = embed
        self._pacer = Pacer(way.concurrency, time.monotonic)
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Make the client."""
        way = self._way
        self._client = await self._stack.enter_async_context(
            patient_client(
                way.url,
                api_key=way.api_key,
                fallback_url=way.fallback_url,
                fingerprint=self._origin.fingerprint,
                patience_s=way.patience_s,
                connections=way.concurrency,
                on_retry=self._on_retry,
            )
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._stack.aclose()

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """Vectors of the records in their order, without those that are refused. Raises ClientError."""
        texts = [record.text for record in records]
        pieces, start = [], 0
        for piece in split(texts, max_texts=self._way.batch, max_bytes=1 << 20):
            pieces.append(records[start : start + len(piece)])
            start += len(piece)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._embed_piece(piece)) for piece in pieces]
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from None
        results = [result for task in tasks for result in task.result()[0]]
        return Embedded(
            vectors=np.concatenate(
                [np.empty((0, self._origin.dimensions), np.float32), *(result.vectors for result in results)]
            ),
            tiers=[tier for result in results for tier in result.tiers],
            tokens=sum(result.usage_tokens for result in results),
            refused=[bad for task in tasks for bad in task.result()[1]],
        )

    async def _embed_piece(self, records: Sequence[Record]) -> tuple[list[EmbedResult], list[BadLine]]:
        await self._pacer.acquire()
        try:
            results, refused = await embed_records(self._client, records, **asdict(self._embed))
        finally:
            self._pacer.release()
        self._pacer.went_well()
        if any(result.vectors.shape[1] != self._origin.dimensions for result in results):
            raise InvalidReply("the gateway's vectors have other dimensions than its /info says")
        return results, refused

    def _on_retry(self, error: ClientError, wait_s: float) -> None:
        self._pacer.overloaded()
