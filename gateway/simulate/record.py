"""Token ids and vectors of a log's texts, by the running engine: what a replay needs.

Requests take the bulk lane, so they wait for clients' work; a full engine is tried again.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import aiohttp
import numpy as np

from cache.semantic.replay import Recording
from common.credentials import shown_url, shown_urls_in
from engine.protocol import EngineInfo, Float32Array, Lane
from engine.text_encoder import EncodedText
from gateway.engines.engine_set import EngineSet, Model
from gateway.errors import EngineAway, GatewayError, ModelChanged

ENCODED_AT_ONCE: Final = 512
TEXTS_AT_ONCE: Final = 64
READY_WITHIN_S: Final = 10.0
DEADLINE_S: Final = 120.0  # of one request to the engine
PATIENCE_S: Final = 120.0  # with an engine that is full or away
RETRY_S: Final = 1.0

T = TypeVar("T")


class Progress(Protocol):
    """Wraps a sequence of steps to show how far they are."""

    def __call__(self, what: str, steps: Sequence[T]) -> Iterable[T]: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """`token_s`: the engine's time a token, without waiting. `truncated`: requests cut at the model's limit."""

    recording: Recording
    token_s: float
    truncated: int


@asynccontextmanager
async def ready_engine(url: str) -> AsyncIterator[EngineSet]:
    """The engine's client, once the engine is ready. Raises EngineAway."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as http:
        engine = EngineSet(url, http)
        try:
            await engine.refresh()
        except EngineAway as error:
            reason = shown_urls_in(str(error.__cause__)) or type(error.__cause__).__name__
            raise EngineAway(f"the engine at {shown_url(url)} cannot be reached: {reason}") from error
        watch = asyncio.create_task(engine.run_watch())
        try:
            await _until_ready(engine, url)
            yield engine
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


async def record(engine: EngineSet, texts: Sequence[str], prompt: str, progress: Progress) -> Recorded:
    """Ids and vectors of the distinct texts. Raises GatewayError."""
    model = engine.model
    encoded = await _encode(model, [prompt + text for text in texts])
    places: dict[bytes, int] = {}
    order = np.array([places.setdefault(one.input_ids, len(places)) for one in encoded], dtype=np.int64)
    firsts = np.unique(order, return_index=True)[1]
    distinct = [encoded[first] for first in firsts]
    vectors, token_s = await _vectors(engine, model, distinct, progress)
    ids = [np.frombuffer(one.input_ids, dtype=np.int32) for one in distinct]
    recording = Recording(order, ids, [len(texts[first]) for first in firsts], vectors)
    return Recorded(recording, token_s, sum(one.truncated for one in encoded))


async def _until_ready(engine: EngineSet, url: str) -> None:
    give_up_at = time.monotonic() + READY_WITHIN_S
    while not engine.is_ready:
        if time.monotonic() > give_up_at:
            raise EngineAway(f"the engine at {shown_url(url)} is not ready: {engine.away_detail}")
        await asyncio.sleep(0.05)


async def _encode(model: Model, texts: Sequence[str]) -> list[EncodedText]:
    encoded: list[EncodedText] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        encoded += await asyncio.to_thread(model.encoder.encode, texts[start : start + ENCODED_AT_ONCE])
    return encoded


async def _vectors(
    engine: EngineSet, model: Model, texts: Sequence[EncodedText], progress: Progress
) -> tuple[Float32Array, float]:
    """float32[n, dimensions], and the engine's seconds a token, as it reports them, or else by the clock."""
    vectors = np.empty((len(texts), model.info.dimensions), dtype=np.float32)
    size = _texts_at_once(model.info)
    spent_s = 0.0
    for start in progress("the engine computes", range(0, len(texts), size)):
        batch = texts[start : start + size]
        began_at = time.perf_counter()
        vectors[start : start + size] = await _with_patience(engine, model, batch)
        run_s = engine.run_s(sum(one.tokens for one in batch))
        spent_s += time.perf_counter() - began_at if run_s is None else run_s
    return vectors, spent_s / max(1, sum(one.tokens for one in texts))


def _texts_at_once(info: EngineInfo) -> int:
    return max(1, min(TEXTS_AT_ONCE, info.max_request_items, info.max_request_tokens // info.max_tokens))


async def _with_patience(engine: EngineSet, model: Model, batch: Sequence[EncodedText]) -> Float32Array:
    """One request, tried again while the engine is full or away. Raises GatewayError."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_S
    while True:
        try:
            return await engine.vectors(model, batch, Lane.BULK, loop.time() + DEADLINE_S)
        except ModelChanged:
            raise EngineAway("the engine changed its model meanwhile: run the command again") from None
        except GatewayError as error:
            if error.status < 429 or loop.time() >= give_up_at:
                raise
            await asyncio.sleep(min(error.retry_after_s or RETRY_S, 10 * RETRY_S))
