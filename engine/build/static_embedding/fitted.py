"""The static embedding's fitted form: token vectors trained on a corpus towards the engine's. Pure numpy, minutes.

For a text with look-up vector p, engine vector e and its image y = normalise(e @ projection), and for pairs (a, b) of
texts:

    loss = mean(1 - p y) + 2 mean((|p_a - p_b| - |e_a - e_b|)^2) + 2 mean((p_a p_b - e_a e_b)^2)

Pairs are what a look-up meets: neighbours before training, neighbours by the engine, edited copies, random ones.
Only the rows of a batch's tokens move (Adam with lazy moments; Kingma and Ba, 2015). The seed fixes the outcome.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.build.static_embedding.quick import (
    PRIOR,
    Embed,
    Progress,
    StaticEmbedding,
    look_up_vectors,
    no_progress,
    principal_axes,
    spearman,
    weighted_table,
)
from engine.protocol import Float32Array, Int32Array

IndexArray = npt.NDArray[np.intp]
EPSILON = 1e-4  # under the root of a distance, so that its slope stays finite
FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class FitSettings:
    """`edited_share`: edited copies made per text. `held_out`: texts kept back for the reported Spearman."""

    epochs: int = 3
    batch_pairs: int = 256
    learning_rate: float = 0.004
    neighbours: int = 6
    pairs_each: int = 3
    edited_share: float = 1.0
    held_out: int = 500
    seed: int = 0


class Bags:
    """Texts as bags of distinct tokens with damped counts, laid out flat so that a batch is one gather."""

    def __init__(self, texts: Sequence[Int32Array]) -> None:
        bags = [np.unique(ids, return_counts=True) for ids in texts]
        self._tokens = np.concatenate([tokens for tokens, _ in bags])
        self._weights = np.concatenate([1 + np.log(counts) for _, counts in bags]).astype(np.float32)
        self._lengths = np.array([len(tokens) for tokens, _ in bags])
        self._starts = np.cumsum(self._lengths) - self._lengths

    def batch(self, texts: IndexArray) -> tuple[IndexArray, Float32Array, IndexArray, IndexArray]:
        """Tokens and weights of these texts one after the other, each text's start in them, and its length."""
        lengths = self._lengths[texts]
        offsets = np.cumsum(lengths) - lengths
        places = np.repeat(self._starts[texts] - offsets, lengths) + np.arange(int(lengths.sum()))
        return self._tokens[places], self._weights[places], offsets, lengths


class SparseAdam:
    """Adam over a table of which a step touches few rows."""

    def __init__(self, table: Float32Array) -> None:
        self.table = table.copy()
        self._mean = np.zeros_like(table)
        self._square = np.zeros_like(table)
        self._steps = np.zeros((len(table), 1), dtype=np.float32)

    def step(self, rows: IndexArray, gradient: Float32Array, learning_rate: float) -> None:
        """Move distinct `rows` against `gradient`, float32[len(rows), d]."""
        self._steps[rows] += 1
        mean = self._mean[rows] = 0.9 * self._mean[rows] + 0.1 * gradient
        square = self._square[rows] = 0.99 * self._square[rows] + 0.01 * gradient**2
        count = self._steps[rows]
        self.table[rows] -= learning_rate * (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.99**count)) + 1e-8)


def fit_table(
    table: Float32Array,
    texts: Sequence[Int32Array],
    vectors: Float32Array,
    images: Float32Array,
    pairs: IndexArray,
    settings: FitSettings,
    progress: Progress = no_progress,
) -> Float32Array:
    """The trained table. vectors float32[n, dimensions]; images float32[n, d] unit; pairs [m, 2] of text indices."""
    draw = np.random.default_rng(settings.seed)
    bags, adam, size = Bags(texts), SparseAdam(table), min(settings.batch_pairs, len(pairs))
    similarity = np.einsum("nd,nd->n", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    done, total = 0, settings.epochs * (len(pairs) // size)
    for _ in range(settings.epochs):
        order = draw.permutation(len(pairs))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            _step(adam, bags, images, pairs[chosen], similarity[chosen], settings.learning_rate * (1 - done / total))
            done += 1
            if done % 50 == 0 or done == total:
                progress("training", done / total)
    return adam.table


def _step(
    adam: SparseAdam,
    bags: Bags,
    images: Float32Array,
    pairs: IndexArray,
    similarity: Float32Array,
    learning_rate: float,
) -> None:
    """One batch of pairs: forward, gradient by hand, update."""
    size, members = len(pairs), pairs.T.reshape(-1)
    tokens, weights, offsets, lengths = bags.batch(members)
    sums = np.add.reduceat(adam.table[tokens] * weights[:, None], offsets, axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True) + FLOOR
    look_ups = sums / norms
    first, second = look_ups[:size], look_ups[size:]
    near = np.einsum("nd,nd->n", first, second)
    distance = np.sqrt(np.maximum(2 - 2 * near, 0) + EPSILON)
    wanted = np.sqrt(np.maximum(2 - 2 * similarity, 0))
    slope = (4 * (distance - wanted) * (-1 / distance) + 4 * (near - similarity)) / size
    gradient = images[members] * (-1 / len(members))
    gradient[:size] += slope[:, None] * second
    gradient[size:] += slope[:, None] * first
    gradient = (gradient - look_ups * np.einsum("nd,nd->n", look_ups, gradient)[:, None]) / norms
    order = np.argsort(tokens, kind="stable")
    in_order = tokens[order]
    firsts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    spread = (np.repeat(gradient, lengths, axis=0) * weights[:, None])[order]
    adam.step(in_order[firsts], np.add.reduceat(spread, firsts, axis=0).astype(np.float32), learning_rate)


def edited(ids: Int32Array, other: Int32Array, draw: np.random.Generator) -> Int32Array:
    """A copy with one or two small edits: a span deleted, inserted or replaced by one of `other`, or two swapped.

    The first and last id, the special tokens, stay; the length stays within the original's and three more.
    """
    body, donor = list(ids[1:-1]), list(other[1:-1])
    limit = len(body) + 3
    for _ in range(1 + int(draw.random() < 0.4)):
        if len(body) < 3 or not donor:
            break
        span = max(1, min(len(body) // 4, int(draw.geometric(0.5 if len(body) < 30 else 0.12))))
        at, source = int(draw.integers(0, len(body) - span + 1)), int(draw.integers(0, max(1, len(donor) - span)))
        kind = int(draw.integers(0, 4))
        if kind == 0:
            del body[at : at + span]
        elif kind == 1:
            body[at:at] = donor[source : source + span]
        elif kind == 2:
            body[at : at + span] = donor[source : source + span]
        else:
            a, b = (int(place) for place in draw.integers(0, len(body), 2))
            body[a], body[b] = body[b], body[a]
    return np.array([ids[0], *body[:limit], ids[-1]], dtype=np.int32)


def neighbour_pairs(vectors: Float32Array, settings: FitSettings, draw: np.random.Generator) -> IndexArray:
    """[m, 2]: each vector with a few of its nearest others."""
    n, k = len(vectors), min(settings.neighbours, len(vectors) - 1)
    parts = []
    for start in range(0, n, 2048):
        rows = np.arange(start, min(start + 2048, n))
        near = vectors[rows] @ vectors.T
        near[np.arange(len(rows)), rows] = -2
        best = np.argpartition(-near, k - 1, axis=1)[:, :k]
        picked = draw.permuted(np.tile(np.arange(k), (len(rows), 1)), axis=1)[:, : settings.pairs_each]
        parts += [np.stack([rows, best[np.arange(len(rows)), column]], axis=1) for column in picked.T]
    return np.concatenate(parts)


def fit_static_embedding(
    embed: Embed,
    vocabulary: Float32Array,
    special_ids: Sequence[int],
    corpus: Sequence[Int32Array],
    settings: FitSettings | None = None,
    dimensions: int = 256,
    max_tokens: int = 256,
    progress: Progress = no_progress,
) -> StaticEmbedding:
    """The fitted form from a corpus' token ids (special tokens included). Raises ValueError under 50 texts."""
    settings = settings or FitSettings()
    distinct = [np.frombuffer(key, dtype=np.int32) for key in dict.fromkeys(ids.tobytes() for ids in corpus)]
    if len(distinct) < 50:
        raise ValueError(f"the static embedding's corpus holds {len(distinct)} distinct texts; give at least 50")
    draw = np.random.default_rng(settings.seed)
    rows = draw.permutation(len(distinct))
    held = [distinct[row] for row in rows[: min(settings.held_out, len(rows) // 10)]]
    base = [distinct[row] for row in rows[len(held) :]]
    originals = draw.integers(0, len(base), int(settings.edited_share * len(base)))
    copies = [edited(base[row], base[int(draw.integers(0, len(base)))], draw)[:max_tokens] for row in originals]
    texts = base + copies
    vectors = _embed_all(embed, texts, progress)
    projection = principal_axes(vectors, min(dimensions, vectors.shape[1]))
    images = vectors @ projection
    images /= np.linalg.norm(images, axis=1, keepdims=True) + FLOOR
    start = weighted_table(vocabulary, projection, special_ids)
    n = len(base)
    pairs = np.concatenate(
        [
            neighbour_pairs(look_up_vectors(start, base), settings, draw),
            neighbour_pairs(vectors[:n], settings, draw),
            np.stack([np.arange(n, n + len(copies)), originals], axis=1).repeat(2, axis=0),
            draw.integers(0, n, (n, 2)),
        ]
    )
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    table = fit_table(start, texts, vectors, images, pairs, settings, progress)
    table[list(special_ids)] = 0
    meta: dict[str, Any] = {"form": "fitted", "texts": len(texts), "pairs": len(pairs), **PRIOR}
    if len(held) > 1:
        true = embed(held)
        meta["spearman"] = round(spearman(look_up_vectors(table, held), true), 4)
        meta["spearman_before"] = round(spearman(look_up_vectors(start, held), true), 4)
    return StaticEmbedding(table, projection, meta)


def _embed_all(embed: Embed, texts: Sequence[Int32Array], progress: Progress) -> Float32Array:
    parts = []
    for start in range(0, len(texts), 512):
        parts.append(embed(texts[start : start + 512]))
        progress("engine vectors", min(1.0, (start + 512) / len(texts)))
    return np.concatenate(parts)
