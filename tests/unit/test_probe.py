"""The probe: made by the model tool, read by the gateway, and what its file may not contain."""

import io

import numpy as np
import pytest

from cache.semantic.predictor import Kernel, predict
from cache.semantic.static_embedding import StaticEmbedding, StaticEmbeddingError
from engine.build.static_embedding.fitted import FitSettings, edited, fit_static_embedding
from engine.build.static_embedding.quick import StaticEmbedding as BuiltEmbedding
from engine.build.static_embedding.quick import (
    look_up_vectors,
    principal_axes,
    quick_static_embedding,
    spearman,
    vocabulary_vectors,
)
from engine.protocol import Float32Array, Int32Array

VOCABULARY, WIDTH, SPECIAL = 400, 24, (0, 1, 2)


def unit(rows: Float32Array) -> Float32Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class ToyEngine:
    """A teacher whose vectors are weighted sums of hidden token vectors, with a twist that depends on the order."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._tokens = draw.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
        self._weights = draw.uniform(0.1, 3, size=VOCABULARY).astype(np.float32)

    def __call__(self, texts: list[Int32Array]) -> Float32Array:
        sums = [self._weights[ids] @ self._tokens[ids] + 0.1 * self._tokens[ids[1]] for ids in texts]
        return unit(np.stack(sums))


def corpus(n: int = 300) -> list[Int32Array]:
    draw = np.random.default_rng(1)
    return [np.array([1, *draw.integers(3, VOCABULARY, draw.integers(4, 12)), 2], dtype=np.int32) for _ in range(n)]


def quick() -> StaticEmbedding:
    vocabulary = vocabulary_vectors(ToyEngine(), VOCABULARY, ([1], [2]))
    return quick_static_embedding(vocabulary, SPECIAL, dimensions=16)


def test_the_gateway_computes_what_the_model_tool_computes() -> None:
    """A probe written by the one and read by the other gives the same vectors, to float16."""
    arrays = quick()
    probe = StaticEmbedding.from_bytes(arrays.to_bytes())
    texts = corpus(20)
    ours = np.stack([probe.vector(ids) for ids in texts])
    assert np.allclose(ours, look_up_vectors(arrays.table, texts), atol=2e-3)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert probe.dimensions == 16
    assert probe.meta["form"] == "quick"


def test_special_tokens_do_not_count() -> None:
    """With and without the tokens around it, a text has one probe."""
    probe = StaticEmbedding.from_bytes(quick().to_bytes())
    ids = corpus(1)[0]
    assert np.array_equal(probe.vector(ids), probe.vector(ids[1:-1]))


def test_unknown_ids_are_left_out() -> None:
    """A token beyond the table changes nothing and breaks nothing."""
    probe = StaticEmbedding.from_bytes(quick().to_bytes())
    assert np.array_equal(probe.vector(np.array([5, 6, 99_999])), probe.vector(np.array([5, 6])))
    assert not probe.vector(np.array([99_999])).any()


def test_repeats_are_damped() -> None:
    """A rule of a hundred equal tokens does not drown the rest."""
    probe = StaticEmbedding.from_bytes(quick().to_bytes())
    text, other = np.arange(10, 20), np.arange(30, 40)
    rule = np.full(100, 7)
    damped = probe.vector(np.concatenate([text, rule])) @ probe.vector(np.concatenate([other, rule]))
    a, b = (probe.table[ids].sum(axis=0) + 100 * probe.table[7] for ids in (text, other))
    assert damped < a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) - 0.01


@pytest.mark.parametrize("content", [b"", b"not a zip", quick().to_bytes()[:-200]], ids=["empty", "noise", "cut"])
def test_damaged_files_are_refused(content: bytes) -> None:
    """A file that is not whole raises StaticEmbeddingError and nothing else."""
    with pytest.raises(StaticEmbeddingError):
        StaticEmbedding.from_bytes(content)


def test_pickles_are_refused() -> None:
    """An object array, which only a pickle can hold, is refused without being read."""
    buffer = io.BytesIO()
    np.savez(buffer, table=np.array([object()], dtype=object))
    with pytest.raises(StaticEmbeddingError, match="not a static embedding"):
        StaticEmbedding.from_bytes(buffer.getvalue())


def test_shapes_must_fit() -> None:
    """A table and a projection of different widths are refused."""
    arrays = BuiltEmbedding(np.ones((5, 4), np.float32), np.ones((6, 3), np.float32))
    with pytest.raises(StaticEmbeddingError, match="do not fit"):
        StaticEmbedding.from_bytes(arrays.to_bytes())


def test_principal_axes_are_orthonormal() -> None:
    """Projection onto them keeps lengths within the space they span."""
    axes = principal_axes(unit(np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)), 6)
    assert np.allclose(axes.T @ axes, np.eye(6), atol=1e-5)


def test_fitting_follows_the_engine_better() -> None:
    """On texts it has not seen, the fitted probe ranks pairs more like the engine than the quick one."""
    engine, texts = ToyEngine(), corpus(600)
    vocabulary = vocabulary_vectors(engine, VOCABULARY, ([1], [2]))
    settings = FitSettings(epochs=4, batch_pairs=64, learning_rate=0.02, held_out=50)
    fitted = fit_static_embedding(engine, vocabulary, SPECIAL, texts[:500], settings, dimensions=16)
    unseen = texts[500:]
    truth = engine(unseen)
    before = spearman(look_up_vectors(quick().table, unseen), truth)
    assert spearman(look_up_vectors(fitted.table, unseen), truth) > before + 0.05
    assert fitted.meta["form"] == "fitted"
    assert 0 < fitted.meta["spearman"] <= 1


def test_a_corpus_too_small_is_refused() -> None:
    """Fifty texts are the least."""
    with pytest.raises(ValueError, match="at least 50"):
        fit_static_embedding(ToyEngine(), np.zeros((VOCABULARY, WIDTH), np.float32), SPECIAL, corpus(20))


def test_edits_keep_the_frame() -> None:
    """An edited copy keeps its first and last token and never grows much."""
    draw = np.random.default_rng(0)
    for ids, other in zip(corpus(100), corpus(100)[::-1], strict=True):
        copy = edited(ids, other, draw)
        assert (copy[0], copy[-1]) == (1, 2)
        assert len(copy) <= len(ids) + 3


def test_kriging_on_top_of_a_neighbour() -> None:
    """A text with a neighbour's probe is predicted to have about its vector, with little spread."""
    draw = np.random.default_rng(0)
    probes, vectors = unit(draw.normal(size=(8, 16))), unit(draw.normal(size=(8, 16)))
    prediction = predict(Kernel(reach=0.5, noise=0.001), probes[3], probes, vectors)
    assert prediction.similarity[3] == pytest.approx(1, abs=0.01)
    assert prediction.spread < 0.01


def test_kriging_carries_differences_over() -> None:
    """Where neighbours are all off in the same way, the prediction beats the bare probe."""
    draw = np.random.default_rng(2)
    centre, shift = draw.normal(size=32), draw.normal(size=32)
    probes = unit(centre + 0.3 * draw.normal(size=(9, 32)))
    vectors = unit(probes + 0.2 * shift)
    truth = vectors[1:] @ vectors[0]
    prediction = predict(Kernel(), probes[0], probes[1:], vectors[1:])
    by_probe = np.abs(prediction.static_similarity - truth).mean()
    assert np.abs(prediction.similarity - truth).mean() < by_probe / 2


def test_equal_neighbours_do_not_break_it() -> None:
    """Eight copies of one neighbour give a finite prediction."""
    row = unit(np.ones((1, 16)))
    prediction = predict(Kernel(), row[0], row.repeat(8, axis=0), row.repeat(8, axis=0))
    assert np.isfinite(prediction.similarity).all()
    assert 0 <= prediction.spread < 0.1
