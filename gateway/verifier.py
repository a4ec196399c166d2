"""Verifies sampled semantic hits after the reply: has the engine recompute the vector and hands it to the tier.

Which hits are verified is drawn by the tier before they are served. Recomputations run in the engine's bulk lane, so
they wait for clients' work; an engine that is full or away delays them.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from cache.exact import Dtype, as_stored
from cache.keys import Scope
from cache.metrics import SEMANTIC_QUEUE_DROPPED
from cache.semantic.tier import Lookup, Observation, SemanticTier, Text
from engine.protocol import Float32Array, Lane
from engine.text_encoder import EncodedText
from gateway.engines.engine_set import EngineSet, Model
from gateway.errors import EngineFailed, GatewayError, ModelChanged

log = logging.getLogger("dejavec.gateway")

AT_ONCE: Final = 32
DEADLINE_S: Final = 60.0
RETRY_S: Final = 1.0
ATTEMPTS: Final = 3  # with an engine that answers and fails, for 32 texts and then for each


@dataclass(frozen=True, slots=True)
class Verification:
    """One served neighbour whose vector is to be compared with the recomputed one."""

    model: Model
    tier: SemanticTier
    scope: Scope
    text: Text
    encoded: EncodedText
    lookup: Lookup


class Verifier:
    """A bounded queue of verifications and the loop that works it off."""

    def __init__(self, engine: EngineSet, cache_dtype: Dtype, max_queued: int) -> None:
        self._engine = engine
        self._cache_dtype = cache_dtype
        self._max_queued = max_queued
        self._queue: deque[Verification] = deque()
        self._work = asyncio.Event()

    def submit(self, verification: Verification) -> None:
        """Queue a verification; what does not fit is dropped and counted."""
        if len(self._queue) >= self._max_queued:
            SEMANTIC_QUEUE_DROPPED.inc()
            return
        self._queue.append(verification)
        self._work.set()

    async def run(self) -> None:
        """Work the queue off until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), AT_ONCE))]
                await self._verify(batch)

    async def _verify(self, batch: list[Verification]) -> None:
        """Recompute the vectors and hand them over; those of another model go back to the queue's head.

        What cannot be recomputed stays pending until that expires, so unverified hits go on taking error budget.
        """
        model = batch[0].model
        same = [one for one in batch if one.model is model]
        self._queue.extendleft(one for one in reversed(batch) if one.model is not model)
        try:
            vectors = await self._recompute(model, same)
        except ModelChanged:
            return  # vectors of that model can no longer be computed
        except GatewayError as error:
            if not isinstance(error, EngineFailed) or len(same) == 1:
                SEMANTIC_QUEUE_DROPPED.inc(len(same))
                return
            for one in same:  # one of them may be what the engine fails on
                await self._verify([one])
            return
        for one, vector in zip(same, vectors, strict=True):
            recomputed = as_stored(vector.tobytes(), self._cache_dtype)
            one.tier.observe(one.scope, [Observation(one.text, recomputed, one.lookup)])

    async def _recompute(self, model: Model, same: list[Verification]) -> Float32Array:
        """float32[n, dimensions]; waits as long as the engine is away or full. Raises GatewayError for anything else,
        EngineFailed after ATTEMPTS failures."""
        failures = 0
        while True:
            deadline = asyncio.get_running_loop().time() + DEADLINE_S
            try:
                return await self._engine.vectors(model, [one.encoded for one in same], Lane.BULK, deadline)
            except GatewayError as error:
                failures += isinstance(error, EngineFailed)
                if error.status < 429 or failures >= ATTEMPTS:
                    raise
                for one in (*same, *self._queue):
                    one.tier.keep_pending(one.scope, one.lookup)
                await asyncio.sleep(min(error.retry_after_s or RETRY_S, 10 * RETRY_S))
