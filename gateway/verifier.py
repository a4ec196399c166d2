"""Checks sampled semantic hits after the reply: asks the engine for the true vector and hands both to the tier.

Which hits are checked is drawn by the tier before they are served. Checks run in the engine's bulk lane, so they wait
for clients' work; an engine that is full or away delays them. Knows nothing of thresholds or of HTTP.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from cache.exact import Dtype, as_stored
from cache.keys import Scope
from cache.lookup import Lookup
from cache.metrics import SEMANTIC_QUEUE_DROPPED
from cache.semantic import SemanticTier
from engine.protocol import Lane
from gateway.engine_client import EncodedText, EngineClient, Model
from gateway.errors import GatewayError, ModelChanged

log = logging.getLogger("dejavec.gateway")

CHECKS_AT_ONCE: Final = 32
CHECK_DEADLINE_S: Final = 60.0
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One served neighbour to be compared with the truth."""

    model: Model
    tier: SemanticTier
    scope: Scope
    digest: bytes
    encoded: EncodedText
    lookup: Lookup


class Verifier:
    """A bounded queue of checks and the loop that works it off."""

    def __init__(self, engine: EngineClient, cache_dtype: Dtype, max_queued: int) -> None:
        self._engine = engine
        self._cache_dtype = cache_dtype
        self._max_queued = max_queued
        self._checks: deque[Check] = deque()
        self._work = asyncio.Event()

    def submit(self, check: Check) -> None:
        """Queue a check; what does not fit is dropped and counted."""
        if len(self._checks) >= self._max_queued:
            SEMANTIC_QUEUE_DROPPED.inc()
            return
        self._checks.append(check)
        self._work.set()

    async def run(self) -> None:
        """Work the queue off until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._checks:
                batch = [self._checks.popleft() for _ in range(min(len(self._checks), CHECKS_AT_ONCE))]
                await self._check(batch)

    async def _check(self, batch: list[Check]) -> None:
        model = batch[0].model
        same = [check for check in batch if check.model is model]
        self._checks.extendleft(check for check in reversed(batch) if check.model is not model)
        while True:
            deadline = asyncio.get_running_loop().time() + CHECK_DEADLINE_S
            try:
                vectors = await self._engine.vectors(model, [check.encoded for check in same], Lane.BULK, deadline)
                break
            except ModelChanged:
                return  # the truth of that model is no longer to be had
            except GatewayError as error:
                if error.status < 429:
                    return
                for check in (*same, *self._checks):
                    check.tier.scopes.still_checks(check.scope, check.lookup)
                await asyncio.sleep(min(error.retry_after_s or RETRY_S, 10 * RETRY_S))
        for check, vector in zip(same, vectors, strict=True):
            true = as_stored(vector.tobytes(), self._cache_dtype)
            ids = np.frombuffer(check.encoded.input_ids, dtype=np.int32)
            check.tier.learner.add(check.scope, check.digest, true, check.lookup, ids, is_check=True)
