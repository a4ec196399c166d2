"""One engine put together: a model, its batcher, tokenizer, heartbeat and metrics, opened and closed as one.

Here settings meet the model: automatic values are resolved, bounds checked, and what was found is logged.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from engine.batching.batcher import Batcher, BatcherSettings
from engine.batching.heartbeat import Heartbeat
from engine.batching.lane_queue import BatchShape
from engine.configuration import ConfigurationError
from engine.metrics import EngineMetrics
from engine.model.session import Model, RunCost, heartbeat_text, measure_run_cost, open_model
from engine.model.topology import Topology, choose, usable_cores
from engine.protocol import MAX_REQUEST_ITEMS, EngineInfo, Int32Array
from engine.settings import EngineSettings
from engine.text_encoder import EncodedText, TextEncoder

logger = logging.getLogger(__name__)

HEARTBEAT_TOKENS = 8
JSON_BYTES_PER_TOKEN = 8  # an id of up to seven digits and its comma

# Rows beyond the point where a run's fixed cost is 2 % of it gain nothing and cost cache misses and waiting. MiniLM
# in INT8 on one core, tokens/ms: 7.6 for 1 x 16, 11.0 for 16 x 16, 8.7 for 256 x 16; 9.3 for 1 x 128, 7.3 for 32 x 128.
FIXED_COST_SHARE = 0.02
MIN_FIXED_TOKENS = 5.0  # against a measurement that was disturbed; MiniLM's is 5-13 on a CPU
MAX_CPU_FIXED_TOKENS = 20.0  # batches of 1,000 tokens


class Engine:
    """The parts of a serving engine. Construct with a model; `opened` runs it."""

    def __init__(self, settings: EngineSettings, model: Model, topology: Topology) -> None:
        self.model = model
        self.metrics = EngineMetrics()
        self.info = _info(model)
        self.max_body_bytes = settings.engine_max_body_bytes or _largest_body(self.info.max_request_tokens)
        self.drain_s = settings.engine_drain_s
        self._encoder = TextEncoder(model.tokenizer_json, model.bundle.max_tokens)
        self._tokenizer_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        cost = measure_run_cost(model)
        bounds = _batcher_settings(settings, self.info.max_request_tokens, cost, len(model.runs), model.device)
        if model.bundle.batch_dependent:
            bounds = replace(bounds, shape=replace(bounds.shape, max_rows=1))
        self.batcher = Batcher(model.runs, self.info.dimensions, bounds, self.metrics)
        self.metrics.watch(
            lambda: self.batcher.queued_rows,
            lambda: self.batcher.queued_tokens,
            lambda: self.batcher.tokens_per_s,
        )
        text = heartbeat_text(min(HEARTBEAT_TOKENS, model.bundle.max_tokens), model.bundle.vocab_size)
        self.heartbeat = Heartbeat(self.batcher, text, settings.heartbeat_interval_s, settings.engine_hang_s)
        _log_start(self, settings, topology, bounds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Engine"]:
        """Threads and heartbeat run inside this context; at its end what still waits is refused."""
        self.batcher.open()
        beating = asyncio.create_task(self.heartbeat.run(), name="heartbeat")
        try:
            yield self
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            self.batcher.close()
            self._tokenizer_thread.shutdown(wait=False, cancel_futures=True)

    async def drain(self) -> None:
        """Shutting down: not ready, nothing new; what waits has `engine_drain_s` to finish."""
        self.heartbeat.drain()
        if not await self.batcher.drain(self.drain_s):
            logger.warning("the drain limit passed with requests unanswered: they got 503")

    async def tokenize(self, texts: Sequence[str]) -> list[Int32Array]:
        """Token ids of texts, special tokens added, truncated at the model's maximum; off the event loop.

        In steps: when it is cancelled, it ends after the one that runs, and other requests' steps come in between.
        """
        started_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        steps = self._encoder.steps(texts)
        encoded: list[EncodedText] = []
        while (part := await loop.run_in_executor(self._tokenizer_thread, next, steps, None)) is not None:
            encoded += part
        self.metrics.tokenized(time.perf_counter() - started_s)
        return [np.frombuffer(one.input_ids, dtype=np.int32) for one in encoded]


def build_engine(settings: EngineSettings) -> Engine:
    """Open the configured bundle. Raises BundleError and ConfigurationError."""
    topology = choose(usable_cores(), settings.engine_sessions, settings.engine_threads)
    model = open_model(
        settings.model_bundle,
        settings.device,
        topology,
        allow_unverified=settings.allow_unverified_bundle,
        allow_batch_dependent=settings.allow_batch_dependent_bundle,
    )
    return Engine(settings, model, topology)


def _info(model: Model) -> EngineInfo:
    bundle = model.bundle
    return EngineInfo(
        model=bundle.model,
        fingerprint=model.fingerprint,
        kernel_class=model.kernel_class,
        dimensions=bundle.dimensions,
        max_tokens=bundle.max_tokens,
        max_request_items=MAX_REQUEST_ITEMS,
        max_request_tokens=MAX_REQUEST_ITEMS * bundle.max_tokens,
        prompts=bundle.prompts,
        default_prompt_name=bundle.default_prompt_name,
        device=model.device,
        source=bundle.source,
        pooling=bundle.pooling,
        matryoshka_dims=bundle.matryoshka_dims,
        matryoshka_layer_norm=bundle.matryoshka_layer_norm,
        static_embedding_sha256=hashlib.sha256(model.static_embedding).hexdigest() if model.static_embedding else "",
    )


def _largest_body(max_request_tokens: int) -> int:
    return JSON_BYTES_PER_TOKEN * max_request_tokens + 1_048_576


def _batcher_settings(
    settings: EngineSettings, max_request_tokens: int, cost: RunCost, runs: int, device: str
) -> BatcherSettings:
    """Resolve automatic bounds. Raises ConfigurationError for a queue too small for a legal request."""
    least = 2 * max_request_tokens
    if 0 < settings.max_queue_tokens < least:
        raise ConfigurationError(
            f"max_queue_tokens: {settings.max_queue_tokens} is less than {least}, twice the largest legal "
            f"request of this model; smaller requests would keep the largest out for ever"
        )
    fixed_tokens = max(cost.fixed_tokens, MIN_FIXED_TOKENS)
    if device == "cpu":
        fixed_tokens = min(fixed_tokens, MAX_CPU_FIXED_TOKENS)
    shape = BatchShape(
        max_rows=settings.max_batch_size,
        max_tokens=min(settings.max_batch_tokens, int(fixed_tokens / FIXED_COST_SHARE)),
        run_cost_tokens=fixed_tokens,
    )
    return BatcherSettings(
        shape=shape,
        max_queue_tokens=settings.max_queue_tokens or least,
        deadline_s=settings.engine_deadline_s,
        tokens_per_s=cost.tokens_per_s * runs,
        double_cost_tokens=cost.double_cost_tokens,
        policy=settings.batching_policy,
        window_s=settings.batching_timeout_ms / 1000,
    )


def _log_start(engine: Engine, settings: EngineSettings, topology: Topology, bounds: BatcherSettings) -> None:
    info, shape = engine.info, bounds.shape
    logger.info("model=%s bundle=%s", info.model, settings.model_bundle)
    logger.info("fingerprint=%s kernel_class=%s device=%s", info.fingerprint, info.kernel_class, info.device)
    logger.info("check vectors: %s, digest=%s", engine.model.agreement, engine.model.agreement.digest)
    if engine.model.bundle.batch_dependent:
        logger.warning("the bundle is batch-dependent: every text runs alone")
    logger.info("cores=%g sessions=%d threads=%d", topology.cores, topology.sessions, topology.threads)
    logger.info(
        "policy=%s window_ms=%g max_batch_rows=%d max_batch_tokens=%d run_cost_tokens=%.1f",
        bounds.policy, settings.batching_timeout_ms, shape.max_rows, shape.max_tokens, shape.run_cost_tokens,
    )  # fmt: skip
    logger.info(
        "max_queue_tokens=%d deadline_s=%g max_body_bytes=%d tokens_per_s=%d double_cost_tokens=%.0f",
        bounds.max_queue_tokens, bounds.deadline_s, engine.max_body_bytes, bounds.tokens_per_s,
        bounds.double_cost_tokens,
    )  # fmt: skip
