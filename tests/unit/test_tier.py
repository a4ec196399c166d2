"""The semantic tier's two calls, with index, vectors and exchange in memory."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from cache.keys import Scope
from cache.metrics import REFUSED
from cache.semantic.in_memory import InMemoryExchange, InMemoryIndex, InMemoryVectors
from cache.semantic.observation import JOBS_AT_ONCE
from cache.semantic.policy import Policy
from cache.semantic.static_embedding import StaticEmbedding
from cache.semantic.tier import Observation, SemanticSettings, SemanticTier, Text

SCOPE = Scope(b"s" * 32, "fingerprint", "a", ("1-a", "1-b"))
WIDTH = 16
ON = Policy.of("on", 0.92, 0.05, 0.05, 0.92, 0.88, 0.98)
TABLE = np.random.default_rng(0).standard_normal((100, WIDTH)).astype(np.float32)
EMBEDDING = StaticEmbedding(TABLE, np.eye(WIDTH, dtype=np.float32), {"margin": 0.01})


class Parts:
    """A tier and what it was made of."""

    def __init__(self, policy: Policy = ON, **settings: int) -> None:
        self.index, self.vectors, self.exchange = InMemoryIndex(), InMemoryVectors(), InMemoryExchange()
        chosen = SemanticSettings(**{"min_text_length": 5, "ttl_s": 60, **settings})
        self.tier = SemanticTier(
            self.index, self.vectors, self.exchange, EMBEDDING, "embedding", chosen, lambda _: policy
        )

    def compute(self, text: Text) -> bytes:
        """The engine's vector, kept in the exact tier."""
        vector = EMBEDDING.vector(text.ids).tobytes()
        self.vectors.put_many([(text.digest, vector)])
        return vector


def text(*ids: int, chars: int = 10) -> Text:
    content = np.array(ids, dtype=np.int32).tobytes()
    return Text(SCOPE.digest_of_ids(content), content, chars)


BASE, NEAR, FAR = text(*range(12)), text(*range(13)), text(*range(50, 60))


async def keep_running(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()


async def indexed(parts: Parts, *texts: Text) -> None:
    parts.tier.observe(SCOPE, [Observation(one, parts.compute(one)) for one in texts], engine_s=0.001)
    async with asyncio.timeout(120):
        while parts.index.documents < len(texts):
            await asyncio.sleep(0.001)


async def test_a_near_text_is_a_hit_and_a_far_one_is_not() -> None:
    """The neighbour's own vector is served, in the order of the texts; one that is too short is not looked up."""
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE)
    near, far, short = await parts.tier.look_up(SCOPE, [NEAR, FAR, text(*range(11), chars=2)])
    assert near is not None
    assert far is not None
    assert short is None
    assert near.vector == parts.compute(BASE)
    assert far.vector is None
    assert await parts.tier.look_up(SCOPE, [NEAR], min_fidelity=0.95) == [None]
    await parts.tier.stop()


async def test_a_violation_that_a_verification_finds_is_mended() -> None:
    """The neighbour leaves the index, the recomputed vector is stored and indexed."""
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE)
    (hit,) = await parts.tier.look_up(SCOPE, [NEAR])
    assert hit is not None
    assert hit.is_checked
    other = EMBEDDING.vector(FAR.ids).tobytes()
    parts.tier.observe(SCOPE, [Observation(NEAR, other, hit)])
    await parts.tier.stop()
    assert parts.vectors.held[NEAR.digest] == other
    ((found,),) = await parts.index.nearest(SCOPE.tag, EMBEDDING.vector(NEAR.ids)[None], 5)
    assert found.digest == NEAR.digest


async def test_what_is_observed_in_a_moment_is_processed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misses wait for each other, a verification for nothing: with it goes all that waits."""
    monkeypatch.setattr("cache.semantic.observation.GATHER_S", 3600.0)
    parts = Parts()
    parts.tier.start(keep_running)
    parts.tier.observe(SCOPE, [Observation(BASE, parts.compute(BASE))], engine_s=0.001)
    await parts.tier.process_observed()
    (hit,) = await parts.tier.look_up(SCOPE, [NEAR])
    assert hit is not None
    parts.tier.observe(SCOPE, [Observation(FAR, parts.compute(FAR))], engine_s=0.001)
    await asyncio.sleep(0.02)
    assert parts.index.documents == 1
    parts.tier.observe(SCOPE, [Observation(NEAR, EMBEDDING.vector(NEAR.ids).tobytes(), hit)])
    async with asyncio.timeout(30):
        while parts.index.documents < 2:
            await asyncio.sleep(0.001)
    await parts.tier.stop()


async def test_many_observations_wait_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are processed at once."""
    monkeypatch.setattr("cache.semantic.observation.GATHER_S", 3600.0)
    parts = Parts()
    parts.tier.start(keep_running)
    await asyncio.sleep(0)
    await indexed(parts, *(text(*range(number, number + 10)) for number in range(JOBS_AT_ONCE)))
    await parts.tier.stop()


async def test_the_final_flush_loses_nothing_and_takes_nothing_more() -> None:
    """What was observed before `stop` is processed and sent; what comes after is dropped."""
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE)
    lookups = await parts.tier.look_up(SCOPE, [FAR])
    parts.tier.observe(SCOPE, [Observation(FAR, parts.compute(FAR), lookups[0])], engine_s=0.001)
    await parts.tier.stop()
    assert [event["k"] for event in parts.exchange.events[SCOPE.tag]] == ["label"]
    parts.tier.observe(SCOPE, [Observation(NEAR, parts.compute(NEAR))], engine_s=0.001)
    await parts.tier.stop()
    assert parts.index.documents == 2


async def test_an_exchange_that_hangs_does_not_hold_up_the_end(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The final flush is bounded."""
    monkeypatch.setattr("cache.semantic.tier.FINAL_FLUSH_S", 0.05)
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE)
    await parts.tier.look_up(SCOPE, [NEAR])

    async def hang(tag: str, events: object) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(parts.exchange, "append", hang)
    async with asyncio.timeout(120):
        await parts.tier.stop()


async def test_a_vector_that_does_not_belong_to_its_document_is_not_served() -> None:
    """Decided by one vector, the store holding another: a counted miss. Without numbers likewise."""
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE, FAR)
    before = REFUSED.labels("document", "mismatch")._value.get()
    for spoiled in (parts.vectors.held[FAR.digest], np.full(WIDTH, np.nan, np.float32).tobytes()):
        parts.vectors.put_many([(BASE.digest, spoiled)])
        (lookup,) = await parts.tier.look_up(SCOPE, [NEAR])
        assert lookup is not None
        assert lookup.clears
        assert lookup.vector is None
    assert REFUSED.labels("document", "mismatch")._value.get() == before + 2
    parts.compute(BASE)
    hit, _ = await parts.tier.look_up(SCOPE, [NEAR, FAR])
    assert hit is not None
    assert hit.vector == parts.vectors.held[BASE.digest]
    await parts.tier.stop()


async def test_one_request_serves_no_more_unverified_hits_than_the_balance_covers() -> None:
    """Mode `on`, the words of a stored text in a thousand other orders at once: two, until they are verified."""
    parts = Parts()
    parts.tier.start(keep_running)
    await indexed(parts, BASE)
    draw = np.random.default_rng(0)
    lookups = await parts.tier.look_up(SCOPE, [text(*draw.permutation(12).tolist()) for _ in range(1000)])
    assert sum(one is not None and one.clears for one in lookups) == 1000
    assert sum(one is not None and one.vector is not None for one in lookups) == 2
    await parts.tier.stop()
