"""Vectors by an engine in the actor's own process: the engine's tokenizer, queue and sessions, without HTTP or cache.

Nothing is looked up and nothing is kept: a text that occurs twice is computed twice. Threads and sessions do not change
a vector's bytes, so they are those of an engine process with the same bundle on the same kind of CPU.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from bulk.job import BundleWay
from bulk.vectors import AnotherModel, Embedded
from common.matryoshka import shortened
from common.texts import BadLine, Fault, Record
from engine.bundle import Bundle, BundleError, check_files, read_bundle
from engine.configuration import load
from engine.model.device import name_kernel_class
from engine.protocol import MAX_REQUEST_ITEMS, Float32Array, Int32Array, Lane
from engine.serving import build_engine
from engine.settings import EngineSettings
from gateway.client.ingest import EmbedOptions
from gateway.client.journal import Origin
from gateway.client.wire import GatewayInfo

DEADLINE_S = 3600.0  # for a batch in the queue, where nothing else waits
BATCHES_AT_ONCE = 4  # for each core, so that runs have full batches to choose from
LEAST_QUEUE_TEXTS = 2 * MAX_REQUEST_ITEMS  # of any length; see `max_queue_tokens`


def model_of(way: BundleWay, embed: EmbedOptions) -> GatewayInfo:
    """What the bundle's vectors are, from its description. Raises BundleError, naming the option at fault."""
    folder = Path(way.bundle)
    bundle = read_bundle(folder)
    check_files(folder, bundle)
    prompt_of(bundle, embed.prompt_name)
    if embed.dimensions is not None and embed.dimensions > bundle.dimensions:
        raise BundleError(f"--dimensions: {embed.dimensions} is more than {bundle.dimensions}, this model's size")
    fingerprint = bundle.fingerprint(name_kernel_class(bundle.precision, "cpu"))
    return GatewayInfo(bundle.model, fingerprint, bundle.dimensions, bundle.max_tokens)


def prompt_of(bundle: Bundle, name: str | None) -> str:
    """The text of a named prompt, of the model's default one for None, as a gateway puts it in front.

    Raises BundleError.
    """
    if name is None:
        return bundle.prompts.get(bundle.default_prompt_name or "", "")
    if name not in bundle.prompts:
        known = ", ".join(sorted(bundle.prompts)) or "none"
        raise BundleError(f"--prompt-name: {name!r} is not known; known: {known}")
    return bundle.prompts[name]


class BundleEmbedder:
    """Embeds a part's records; use `open` and `close` on one event loop."""

    def __init__(self, way: BundleWay, origin: Origin, embed: EmbedOptions) -> None:
        self._way = way
        self._origin = origin
        self._prompt_name = embed.prompt_name
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Open the bundle, and compare its check vectors. Raises BundleError, AnotherModel."""
        settings = load(
            EngineSettings,
            model_bundle=Path(self._way.bundle),
            device="cpu",
            engine_sessions=self._way.cpus,
            engine_threads=1,
            engine_deadline_s=DEADLINE_S,
        )
        engine = build_engine(settings)
        fingerprint = engine.info.fingerprint
        if fingerprint != self._origin.fingerprint:
            raise AnotherModel(
                f"{self._way.bundle} has the fingerprint {fingerprint} on this node, {self._origin.fingerprint} in the "
                "plan: give every node the same bundle"
            )
        self._engine = await self._stack.enter_async_context(engine.opened())
        self._prompt = prompt_of(self._engine.model.bundle, self._prompt_name)
        # No more than the queue holds of the longest texts: what it refuses would end the ingestion.
        most = max(1, LEAST_QUEUE_TEXTS // self._way.batch)
        self._places = asyncio.Semaphore(min(BATCHES_AT_ONCE * self._way.cpus, most))

    async def close(self) -> None:
        """Close the engine."""
        await self._stack.aclose()

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """Vectors of the records in their order, without those that have no tokens. Raises EngineError."""
        ids = await self._engine.tokenize([self._prompt + record.text for record in records])
        usable = [row for row in ids if len(row)]
        refused = [
            BadLine(record.line, "the text has no tokens", Fault.REFUSED)
            for record, row in zip(records, ids, strict=True)
            if not len(row)
        ]
        batches = [usable[start : start + self._way.batch] for start in range(0, len(usable), self._way.batch)]
        vectors = await asyncio.gather(*(self._run(batch) for batch in batches))
        model = self._engine.model.bundle
        joined = np.concatenate([np.empty((0, model.dimensions), np.float32), *vectors])
        if self._origin.dimensions != model.dimensions:
            joined = shortened(joined, self._origin.dimensions, layer_norm=model.matryoshka_layer_norm)
        return Embedded(joined, ["computed"] * len(usable), sum(map(len, usable)), refused)

    async def _run(self, batch: list[Int32Array]) -> Float32Array:
        async with self._places:
            return await self._engine.batcher.submit(batch, Lane.BULK, None)
