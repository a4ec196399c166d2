"""The alignment matrix, from static to engine vectors, that a namespace has of its own."""

import numpy as np
import pytest

from cache.semantic.alignment import FIRST_FIT, MEMORY, AlignmentSums
from cache.semantic.predictor import Kernel, predict

DIMENSIONS = 8


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def filled(texts: int, seed: int = 0) -> tuple[AlignmentSums, np.ndarray]:
    """Sums of texts whose engine vectors are a fixed turn of their static vectors, and that turn."""
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(np.eye(DIMENSIONS) + 0.3 * draw.normal(size=(DIMENSIONS, DIMENSIONS)))[0].astype(np.float32)
    statics = unit(draw.normal(size=(texts, DIMENSIONS)))
    sums = AlignmentSums(DIMENSIONS)
    sums.add(statics, statics @ turn)
    return sums, turn


def test_a_linear_relation_is_found() -> None:
    """Vectors that are a turn of the static vectors give that turn."""
    sums, turn = filled(2000)
    assert np.abs(sums.fit()[0].matrix - turn).max() < 0.01


def test_directions_never_seen_stay_as_they_are() -> None:
    """Ridge towards the identity: a namespace that uses three axes leaves the others alone."""
    sums, _ = filled(0)
    statics = unit(np.abs(np.random.default_rng(1).normal(size=(500, 3))))
    wide = np.zeros((500, DIMENSIONS), dtype=np.float32)
    wide[:, :3] = statics
    sums.add(wide, wide[:, [1, 0, 2, 3, 4, 5, 6, 7]])
    matrix = sums.fit()[0].matrix
    assert np.array_equal(matrix[3:], np.eye(DIMENSIONS, dtype=np.float32)[3:])
    assert matrix[0, 1] > 0.99


def test_due_at_first_and_after_half_as_many_again() -> None:
    """150 texts, then 225, 337, ...; at MEMORY the past is halved."""
    sums, _ = filled(FIRST_FIT - 1)
    assert not sums.is_due
    row = unit(np.ones((1, DIMENSIONS)))
    sums.add(row, row)
    assert sums.is_due
    sums.fit()
    assert not sums.is_due
    sums.add(row.repeat(FIRST_FIT // 2, axis=0), row.repeat(FIRST_FIT // 2, axis=0))
    assert sums.is_due
    sums, _ = filled(MEMORY)
    sums.fit()
    assert sums.texts == MEMORY // 2
    assert not sums.is_due


def test_old_traffic_is_forgotten() -> None:
    """A namespace whose meaning turns learns the new one."""
    sums, old = filled(MEMORY)
    matrix = sums.fit()[0].matrix
    _, new = filled(0, seed=5)
    for seed in range(2, 8):
        statics = unit(np.random.default_rng(seed).normal(size=(MEMORY // 2, DIMENSIONS)))
        sums.add(statics, statics @ new)
        if sums.is_due:
            matrix = sums.fit()[0].matrix
    assert np.abs(matrix - new).max() < np.abs(matrix - old).max() / 4


def test_another_gateway_resumes_where_one_stopped() -> None:
    """From the stored bytes comes the same matrix to the bit, the same id, and sums that go on."""
    sums, turn = filled(400)
    alignment, content = sums.fit()
    again, resumed = AlignmentSums.resume(content, DIMENSIONS)
    assert np.array_equal(again.matrix, alignment.matrix)
    assert (again.id, again.texts, resumed.texts) == (alignment.id, 400, 400)
    statics = unit(np.random.default_rng(3).normal(size=(300, DIMENSIONS)))
    for one in (sums, resumed):
        one.add(statics, statics @ turn)
    assert np.abs(sums.fit()[0].matrix - resumed.fit()[0].matrix).max() < 0.01


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PK" + c[2:-9], bytes.upper])
def test_a_damaged_matrix_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    """Cut, empty or changed bytes are a ValueError, never a matrix."""
    _, content = filled(400)[0].fit()
    with pytest.raises(ValueError, match="alignment matrix"):
        AlignmentSums.resume(damage(content), DIMENSIONS)


def test_a_matrix_of_another_static_embedding_is_refused() -> None:
    """The dimensions must fit."""
    with pytest.raises(ValueError, match="this static embedding"):
        AlignmentSums.resume(filled(400)[0].fit()[1], DIMENSIONS + 1)


def test_the_matrix_predicts_what_neighbours_leave_open() -> None:
    """A text far from its neighbours is predicted by the matrix, one on top of a neighbour by the neighbour."""
    sums, turn = filled(2000)
    alignment, _ = sums.fit()
    statics = unit(np.random.default_rng(9).normal(size=(5, DIMENSIONS)))
    text, others = statics[0], statics[1:]
    wanted = (others @ turn) @ (text @ turn)
    plain = predict(Kernel(), text, others, others @ turn)
    mapped = predict(Kernel(), text, others, others @ turn, alignment.matrix)
    assert np.abs(mapped.similarity - wanted).max() < np.abs(plain.similarity - wanted).max() / 5
    on_top = predict(Kernel(noise=1e-4), others[0], others, others @ turn, alignment.matrix)
    assert on_top.similarity[0] > 0.999


def test_one_text_a_million_times_spoils_no_matrix() -> None:
    """Sums that were never fitted stay small enough to be solved in float32."""
    sums, _ = filled(1000)
    before, _ = sums.fit()
    static, vector = unit(np.random.default_rng(9).normal(size=(2, sums.dimensions)))
    for _ in range(1000):
        sums.add(np.tile(static, (1000, 1)), np.tile(vector, (1000, 1)))
    assert sums.texts < 2 * MEMORY
    assert sums.is_due
    after, _ = sums.fit()
    assert float(np.abs(after.matrix).max()) < 2 * float(np.abs(before.matrix).max())
