"""The request story: look up, compute, merge, write back.

`EmbeddingService._answer` is the whole of it, top to bottom. Every tier is asked per text; duplicates within a
request are one text; results are merged by position.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from cache.epochs import Epochs
from cache.exact import Dtype, ExactTier, as_stored
from cache.keys import DIGEST_BYTES, Scope
from cache.local import LocalCache, LocalEntry
from cache.semantic.tier import Lookup, Observation, SemanticTier, Text
from common import tracing
from engine.protocol import Lane
from engine.text_encoder import EncodedText
from gateway import spans
from gateway.embed_request import CacheControl, EmbedRequest, EmbedResult
from gateway.engines.engine_set import EngineSet, Model
from gateway.errors import BadRequest, EngineAway, ModelChanged, Overloaded
from gateway.metrics import STAGE_TIMES, TEXTS, TEXTS_HIT, TRUNCATED, model_metrics
from gateway.semantic_tiers import SemanticTiers
from gateway.singleflight import SingleFlight
from gateway.verifier import Verification, Verifier
from gateway.work_pool import WorkPool

MAX_SCOPES: Final = 4096
# Up to so many characters are worked on where they are; more on the pool's threads, off the event loop.
INLINE_CHARS: Final = 4096  # tokenized in 1 ms, 10 ms at worst
INLINE_HASHED_CHARS: Final = 65_536  # hashed in 0.1 ms
HASHED_AT_ONCE: Final = 16  # texts, in one step
_NO_SPAN: Final = nullcontext()


@dataclass(slots=True)
class _Item:
    """A distinct text of a request that L0 did not hold, and where it stands in the request."""

    text: str
    local_digest: bytes
    positions: list[int]
    encoded: EncodedText | None = None
    digest: bytes = b""
    vector: bytes | None = None
    is_in_local: bool = False  # already put there, by this request's own computation
    lookup: Lookup | None = None  # when it was looked up in the semantic tier

    @property
    def tokens(self) -> int:
        """Tokens at all its positions, after it is encoded."""
        assert self.encoded is not None
        return self.encoded.tokens * len(self.positions)

    @property
    def as_text(self) -> Text:
        """What the semantic tier needs of it."""
        assert self.encoded is not None
        return Text(self.digest, self.encoded.input_ids, len(self.text))


class EmbeddingService:
    """Answers embedding requests for one model from L0, the exact tier, the semantic tier and the engine.

    `max_computing` bounds the requests that wait for the engine at the same time.
    """

    def __init__(
        self,
        name: str,
        engine: EngineSet,
        local: LocalCache,
        exact: ExactTier | None,
        epochs: Epochs,
        secret: bytes,
        cache_dtype: Dtype,
        cache_ttl_s: int,
        bulk_request_items: int,
        pool: WorkPool,
        tiers: SemanticTiers | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        self.max_computing: int | None = None
        self._computing = 0
        self._metrics = model_metrics(name)
        self._engine = engine
        self._local = local
        self._exact = exact
        self._epochs = epochs
        self._secret = secret
        self._cache_dtype = cache_dtype
        self._cache_ttl_s = cache_ttl_s
        self._bulk_request_items = bulk_request_items
        self._pool = pool
        self._tiers = tiers
        self._verifier = verifier
        self._flights: SingleFlight[bytes, bytes] = SingleFlight()
        self._scopes: dict[tuple[str, str, tuple[str, str]], Scope] = {}

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Vectors for a request, in order. Raises GatewayError.

        An engine that turns out to serve another model (a new fingerprint) is asked for its identity, and the request
        is done again from the start: its token ids may have changed with the tokenizer.
        """
        try:
            return await self._answer(self._engine.model, request)
        except ModelChanged:
            await self._engine.refresh()
        try:
            return await self._answer(self._engine.model, request)
        except ModelChanged:
            raise EngineAway("the engine changes its model again and again; try later", retry_after_s=2) from None

    async def scope_of(self, model: Model, namespace: str) -> Scope:
        """The scope of a namespace's keys, for the operator's questions."""
        return (await self._scope(model, namespace))[0]

    async def encode(self, model: Model, namespace: str, texts: Sequence[str]) -> list[EncodedText]:
        """Token ids of each text, cut at the model's limit; long ones on the pool, in the namespace's turn."""
        if sum(map(len, texts)) <= INLINE_CHARS:
            return model.encoder.encode(texts)
        return await self._pool.collect(namespace, model.encoder.steps(texts))

    async def _answer(self, model: Model, request: EmbedRequest) -> EmbedResult:
        stages = _Stages()
        scope, is_shared = await self._scope(model, request.namespace)
        result = EmbedResult(model.info, [b""] * len(request.texts), ["miss"] * len(request.texts))

        long = sum(map(len, request.texts)) > INLINE_HASHED_CHARS
        digests = await self._digests(scope, request) if long else None
        items = self._from_local(scope, request, result, digests)
        if items:
            stages.mark("local")
            await self._encode(model, scope, request, items)
            stages.mark("tokenize")
        if request.take_tokens is not None:
            await request.take_tokens(result.tokens + sum(item.tokens for item in items))
        if items:
            use_exact = self._exact if is_shared else None
            if use_exact is not None and request.control.reads:
                vectors = await use_exact.get_many([item.digest for item in items], model.info.dimensions)
                for item, vector in zip(items, vectors, strict=True):
                    self._place(item, vector, "exact", result)
                stages.mark("exact")

            missing = [item for item in items if item.vector is None and not self._just_computed(item, request, result)]
            tier = self._tiers.of(model, request.namespace) if self._tiers is not None and is_shared else None
            if missing and tier is not None and request.control is CacheControl.NORMAL:
                await self._look_up(tier, model, scope, missing, request.min_fidelity, result)
                missing = [item for item in missing if item.vector is None]
                stages.mark("semantic")

            if missing:
                computed = await self._compute(model, request, missing)
                for item in missing:
                    self._place(item, computed[item.digest], "miss", result)
                stages.mark("engine")

            if request.control.writes:
                self._keep(items, missing, use_exact)
                if missing and tier is not None:
                    self._observe(tier, scope, missing, stages.durations_s["engine"])
        result.stage_s = stages.durations_s
        self.count(result)
        return result

    async def _scope(self, model: Model, namespace: str) -> tuple[Scope, bool]:
        """The scope of this request's keys, and whether it is shared: known to all gateways through Redis."""
        epochs = self._epochs.current(namespace) or await self._epochs.ensure(namespace)
        is_shared = epochs is not None
        key = (model.info.fingerprint, namespace, epochs or self._epochs.private())
        scope = self._scopes.get(key)
        if scope is None:
            if len(self._scopes) >= MAX_SCOPES:
                self._scopes.clear()
            scope = self._scopes[key] = Scope(self._secret, *key)
        return scope, is_shared

    async def _digests(self, scope: Scope, request: EmbedRequest) -> Sequence[bytes]:
        return await self._pool.collect(request.namespace, _digest_steps(scope, request))

    def _from_local(
        self, scope: Scope, request: EmbedRequest, result: EmbedResult, digests: Sequence[bytes] | None
    ) -> list[_Item]:
        """Place what L0 holds; return the distinct other texts. `digests` where they have been made."""
        use_local = self._local.enabled and request.control.reads
        items: dict[bytes, _Item] = {}
        for position, text in enumerate(request.texts):
            digest = scope.digest_of_text(text, request.prompt) if digests is None else digests[position]
            if digest in items:
                items[digest].positions.append(position)
                continue
            entry = self._local.get(digest) if use_local else None
            if entry is None:
                items[digest] = _Item(text, digest, [position])
                continue
            if entry.truncated and not request.truncate:
                raise _too_long(position, result.model.max_tokens)
            result.vectors[position] = entry.vector
            result.tiers[position] = "local"
            result.local_digests.append(digest)
            result.tokens += entry.tokens
            result.truncated += entry.truncated
        return list(items.values())

    async def _encode(self, model: Model, scope: Scope, request: EmbedRequest, items: list[_Item]) -> None:
        """Token ids, counts and exact digests of the items."""
        texts = [request.prompt + item.text for item in items] if request.prompt else [item.text for item in items]
        encoded = await self.encode(model, request.namespace, texts)
        for item, one in zip(items, encoded, strict=True):
            if one.truncated and not request.truncate:
                raise _too_long(item.positions[0], model.info.max_tokens)
            item.encoded = one
            item.digest = scope.digest_of_ids(one.input_ids)

    def _just_computed(self, item: _Item, request: EmbedRequest, result: EmbedResult) -> bool:
        """Look at L0 once more: another request may have finished this text while Redis was asked."""
        entry = self._local.get(item.local_digest) if request.control.reads else None
        if entry is not None:
            self._place(item, entry.vector, "local", result)
        return entry is not None

    async def _look_up(
        self,
        tier: SemanticTier,
        model: Model,
        scope: Scope,
        missing: list[_Item],
        min_fidelity: float,
        result: EmbedResult,
    ) -> None:
        """Place the neighbours' vectors that may be served, and have sampled ones verified."""
        texts = [item.as_text for item in missing]
        lookups = await tier.look_up(scope, texts, min_fidelity)
        for item, text, lookup in zip(missing, texts, lookups, strict=True):
            item.lookup = lookup
            if lookup is None or lookup.vector is None:
                continue
            self._place(item, lookup.vector, "semantic", result)
            result.semantic_hits.append(lookup)
            if lookup.is_checked and self._verifier is not None:
                assert item.encoded is not None
                self._verifier.submit(Verification(model, tier, scope, text, item.encoded, lookup))

    def _observe(self, tier: SemanticTier, scope: Scope, computed: list[_Item], engine_s: float) -> None:
        """Hand what the engine computed to the semantic tier.

        A text costs what the engine computed for it, not what it waited; `engine_s`, the whole call, if unknown.
        """
        tokens = sum(item.encoded.tokens for item in computed if item.encoded is not None)
        run_s = self._engine.run_s(tokens)
        observations = [Observation(item.as_text, item.vector or b"", item.lookup) for item in computed]
        tier.observe(scope, observations, (engine_s if run_s is None else run_s) / len(computed))

    async def _compute(self, model: Model, request: EmbedRequest, missing: list[_Item]) -> dict[bytes, bytes]:
        """Vectors of the missing items by digest, each computed once however many requests ask for it now."""
        if self.max_computing is not None and self._computing >= self.max_computing:
            raise Overloaded(
                f"{self._computing} requests wait for the engine of this model; others are answered", retry_after_s=1
            )
        control = request.control.value.encode()
        by_key = {item.digest + control: item for item in missing}  # bytes keep their hash, an enum's is made anew
        lane = Lane.BULK if len(by_key) >= self._bulk_request_items else Lane.INTERACTIVE

        async def compute(keys: list[bytes]) -> dict[bytes, bytes]:
            texts = [encoded for key in keys if (encoded := by_key[key].encoded) is not None]
            in_span = _NO_SPAN if tracing.tracer is None else spans.engine_call(texts)
            with self._metrics.engine_call.time(), in_span:
                vectors = await self._engine.vectors(model, texts, lane, request.deadline)
            computed = {
                key: as_stored(vector.tobytes(), self._cache_dtype) for key, vector in zip(keys, vectors, strict=True)
            }
            if request.control.writes:  # now, so that a request finds this flight or L0, and never neither
                for key, vector in computed.items():
                    self._keep_local(by_key[key], vector)
            return computed

        self._computing += 1
        try:
            found = await self._flights.run(list(by_key), compute)
        finally:
            self._computing -= 1
        return {key[:DIGEST_BYTES]: vector for key, vector in found.items()}

    def _place(self, item: _Item, vector: bytes | None, tier: str, result: EmbedResult) -> None:
        """Put an item's vector at each of its positions."""
        if vector is None:
            return
        assert item.encoded is not None
        item.vector = vector
        for position in item.positions:
            result.vectors[position] = vector
            result.tiers[position] = tier
        result.tokens += item.tokens
        result.truncated += item.encoded.truncated * len(item.positions)

    def _keep(self, items: list[_Item], computed: list[_Item], exact: ExactTier | None) -> None:
        """Write back: L0 now, Redis after the reply, through the exact tier's bounded queue. Never a semantic hit."""
        for item in items:
            if item.lookup is not None and item.lookup.vector is not None:
                continue
            assert item.vector is not None
            if not item.is_in_local:
                self._keep_local(item, item.vector)
        if exact is not None:
            exact.put_many([(item.digest, item.vector) for item in computed if item.vector is not None])

    def count(self, result: EmbedResult) -> None:
        """Count an answer's texts, tokens and stages."""
        texts = len(result.tiers)
        TEXTS.count += texts
        self._metrics.tokens.count += result.tokens
        if result.truncated:
            TRUNCATED.inc(result.truncated)
        TEXTS_HIT.count += texts - result.tiers.count("miss")
        STAGE_TIMES.add(result.stage_s)
        for tier in result.tiers if texts == 1 else set(result.tiers):
            self._metrics.served[tier].count += result.tiers.count(tier)

    def _keep_local(self, item: _Item, vector: bytes) -> None:
        assert item.encoded is not None
        entry = LocalEntry(vector, item.encoded.tokens, item.encoded.truncated)
        self._local.put(item.local_digest, entry, self._cache_ttl_s)
        item.is_in_local = True


class _Stages:
    """Seconds spent in each stage of one request."""

    def __init__(self) -> None:
        self.durations_s: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.durations_s[name] = now - self._last
        if tracing.tracer is not None:
            spans.stage(name, now - self._last)
        self._last = now


def _digest_steps(scope: Scope, request: EmbedRequest) -> Iterator[list[bytes]]:
    for start in range(0, len(request.texts), HASHED_AT_ONCE):
        texts = request.texts[start : start + HASHED_AT_ONCE]
        yield [scope.digest_of_text(text, request.prompt) for text in texts]


def _too_long(position: int, max_tokens: int) -> BadRequest:
    return BadRequest(
        f"input {position} is longer than the model's {max_tokens} tokens; shorten it, or allow truncation",
        param="input",
    )
