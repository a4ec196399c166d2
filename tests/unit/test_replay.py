"""Replays through the semantic tier in memory, with tiny vectors."""

import numpy as np
import pytest

from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.in_memory import InMemoryIndex
from cache.semantic.index import Neighbour
from cache.semantic.policy import Policy
from cache.semantic.replay import Costs, Outcome, Recording, Replay, Ungated
from cache.semantic.static_embedding import Float32Array, StaticEmbedding
from cache.semantic.tier import SemanticSettings

WIDTH = 16
TOKENS = 100
TURNED = 99  # to the engine the opposite, to the static embedding nothing
TABLE = np.random.default_rng(0).standard_normal((TOKENS, WIDTH)).astype(np.float32)
TABLE[TURNED] = 0
EMBEDDING = StaticEmbedding(TABLE, np.eye(WIDTH, dtype=np.float32), {"margin": 0.01})
SETTINGS = SemanticSettings(min_text_length=5, ttl_s=60)
BASE, NEAR, FAR = list(range(12)), list(range(13)), list(range(50, 60))


def policy(mode: str, fidelity: float = 0.92) -> Policy:
    return Policy.of(mode, fidelity, 0.05, 0.05, 0.92, 0.88, 0.98)


def recording(*texts: list[int], chars: int = 10) -> Recording:
    places: dict[tuple[int, ...], int] = {}
    order = np.array([places.setdefault(tuple(text), len(places)) for text in texts])
    ids = [np.array(text, dtype=np.int32) for text in places]
    vectors = np.stack([EMBEDDING.vector(one) * (-1 if TURNED in one else 1) for one in ids])
    return Recording(order, ids, [chars] * len(ids), vectors)


def replayed(recording: Recording, mode: str = "on", costs: Costs | None = None) -> Outcome:
    return Replay(recording, EMBEDDING, policy(mode), costs or Costs(token_s=0.001), SETTINGS).run()


def test_a_near_text_is_a_hit_and_an_exact_repeat_never_gets_here() -> None:
    """Repeats of what was computed are the exact tier's; a hit is not stored, so its repeat is a hit again."""
    out = replayed(recording(BASE, FAR, BASE, NEAR, NEAR))
    assert (out.total, out.requests, out.hits, out.violations) == (5, 4, 2, 0)
    assert (out.first_hit_at, out.first_hit_request) == (4, 3)
    assert out.mean_similarity == pytest.approx(
        float(EMBEDDING.vector(np.arange(12)) @ EMBEDDING.vector(np.arange(13)))
    )


def test_what_is_saved_is_the_engine_less_checks_lookups_and_writes() -> None:
    """The first hits are all checked, so they save nothing; at another price the same formula holds."""
    costs = Costs(engine_s=0.002, token_s=0.001, lookup_s=0.0005, index_s=0.0001)
    out = replayed(recording(BASE, NEAR), costs=costs)
    assert (out.hits, out.checks, out.lookups, out.indexed) == (1, 1, 2, 1)
    assert out.saved_s == pytest.approx(-2 * 0.0005 - 0.0001)
    assert out.saved_at_price_s(5.0, costs) == pytest.approx(out.saved_s)


def test_a_violation_is_counted_by_the_true_vector() -> None:
    """The engine turns the text all around; the check takes the neighbour out, and the text is stored."""
    out = replayed(recording(BASE, [*BASE, TURNED], [*BASE, TURNED]))
    assert (out.requests, out.hits, out.violations) == (2, 1, 1)
    assert out.violations_bound == 1.0
    assert out.similarities == pytest.approx([-1.0])


def test_short_texts_and_observe_serve_nothing() -> None:
    """As in service."""
    assert replayed(recording(BASE, NEAR, chars=3)).lookups == 0
    assert replayed(recording(BASE, NEAR), "observe").hits == 0


def many(count: int, topics: int = 4) -> Recording:
    draw = np.random.default_rng(3)
    bases = [draw.integers(0, TURNED, 30) for _ in range(topics)]
    texts = []
    for _ in range(count):
        text = bases[draw.integers(topics)].copy()
        text[draw.integers(30)] = draw.integers(0, TURNED)
        texts.append(text.tolist())
    return recording(*texts)


def test_auto_serves_once_certified_unless_the_engine_is_too_cheap() -> None:
    """The cost gate is the product's own: with an engine cheaper than a look-up few texts are looked up."""
    stream = many(1000)
    dear = replayed(stream, "auto", Costs(engine_s=0.1))
    assert dear.first_hit_labels is not None
    assert dear.hits > 100
    assert dear.violations == 0
    assert dear.saved_s > 0
    cheap = replayed(stream, "auto", Costs(engine_s=0.0001))
    assert cheap.hits == 0
    assert cheap.lookups < 0.1 * cheap.requests


def test_the_curve_is_of_every_text() -> None:
    """Without the cost gate all texts are labelled and nothing is served; the first finds no neighbour."""
    stream = many(200)
    replay = Replay(stream, EMBEDDING, policy("observe"), Costs(engine_s=0.0001), SETTINGS, Ungated)
    out = replay.run()
    assert out.lookups == out.requests == len(stream.ids)
    curve = replay.curve((0.92,))
    assert curve[0]["reused"] > 0.9
    assert curve[0]["violations"]["0.92"] < 0.05
    assert "of look-ups would be reused" in replay.reading()


def test_a_price_is_the_cost_gates() -> None:
    """A configured price counts in place of the measured time."""
    settings = SemanticSettings(5, 60, engine_price_s=0.1, cost_gate=CostGateSettings(first_lookups=0))
    out = Replay(many(1000), EMBEDDING, policy("auto"), Costs(engine_s=0.0001), settings).run()
    assert out.hits > 100


async def test_the_index_in_memory_finds_what_a_sort_finds() -> None:
    """While entries come, are replaced and go, beyond its first room."""
    draw = np.random.default_rng(1)
    index, held = InMemoryIndex(), dict[bytes, Float32Array]()
    for step in range(900):
        digest = int(draw.integers(600)).to_bytes(2, "big")
        if step % 5 == 4:
            held.pop(digest, None)
            await index.remove(digest)
        else:
            held[digest] = draw.standard_normal(WIDTH).astype(np.float32)
            await index.add([("a", Neighbour(digest, held[digest], held[digest]))], 60)
    wanted = draw.standard_normal(WIDTH).astype(np.float32)
    (found,) = await index.nearest("a", wanted[None], 10)
    assert [one.digest for one in found] == sorted(held, key=lambda digest: -float(held[digest] @ wanted))[:10]
    assert index.documents == len(held)
    assert await index.nearest("b", wanted[None], 10) == [[]]
