"""The static embedding's file, and its quick form: distilled from the vocabulary alone, in well under a minute.

Every token is run through the model alone, between its special tokens; an uncentred PCA of the vectors gives the space
of the static embedding, and log(1 + rank) weighs tokens, vocabularies being sorted by frequency. A text's look-up
vector is the normalised sum of (1 + ln count) * token vector over its distinct tokens;
`cache.semantic.static_embedding` reads the file and computes it while serving.

File: one .npz without pickle: table float16[V, d], projection float32[dimensions, d], meta (JSON as uint8).
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.build import ranks
from engine.protocol import Float32Array, Int32Array

FORMAT_VERSION = 1
CHUNK = 2048
SPEARMAN_PAIRS = 50_000
PRIOR = {"reach": 2.0, "noise": 0.02, "margin": 0.2}  # of the decision: see `cache.semantic.predictor`

Embed = Callable[[Sequence[Int32Array]], Float32Array]
Progress = Callable[[str, float], None]  # what is being done, and the part of it that is done


@dataclass(frozen=True, slots=True)
class StaticEmbedding:
    """table float32[V, d], special tokens' rows zero; projection float32[dimensions, d]."""

    table: Float32Array
    projection: Float32Array
    meta: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's content."""
        meta = json.dumps({**self.meta, "format_version": FORMAT_VERSION}, sort_keys=True).encode()
        buffer = io.BytesIO()
        np.savez(
            buffer,
            table=self.table.astype(np.float16),
            projection=self.projection.astype(np.float32),
            meta=np.frombuffer(meta, dtype=np.uint8),
        )
        return buffer.getvalue()


def no_progress(what: str, part: float) -> None:
    """Report nothing."""


def vocabulary_vectors(
    embed: Embed, vocab_size: int, around: tuple[Sequence[int], Sequence[int]], progress: Progress = no_progress
) -> Float32Array:
    """Each token's vector float32[V, dimensions], computed between the special tokens `around` (before, after)."""
    before, after = around
    parts = []
    for start in range(0, vocab_size, CHUNK):
        tokens = range(start, min(start + CHUNK, vocab_size))
        parts.append(embed([np.array([*before, token, *after], dtype=np.int32) for token in tokens]))
        progress("vocabulary", (start + len(tokens)) / vocab_size)
    return np.concatenate(parts)


def principal_axes(vectors: Float32Array, dimensions: int) -> Float32Array:
    """The first axes of an uncentred PCA, float32[width, dimensions]."""
    moment = (vectors.T @ vectors).astype(np.float64) / len(vectors)
    _, axes = np.linalg.eigh(moment)
    return np.ascontiguousarray(axes[:, ::-1][:, :dimensions], dtype=np.float32)


def weighted_table(vocabulary: Float32Array, projection: Float32Array, special_ids: Iterable[int]) -> Float32Array:
    """Token vectors in the static embedding's space times log(1 + rank), scaled to a mean length of 1."""
    table = (vocabulary @ projection) * np.log1p(np.arange(len(vocabulary), dtype=np.float32))[:, None]
    table[list(special_ids)] = 0
    return np.asarray(table / np.linalg.norm(table, axis=1).mean(), dtype=np.float32)


def quick_static_embedding(
    vocabulary: Float32Array, special_ids: Iterable[int], dimensions: int = 256
) -> StaticEmbedding:
    """The form that needs no corpus, from `vocabulary_vectors`."""
    projection = principal_axes(vocabulary, min(dimensions, vocabulary.shape[1]))
    return StaticEmbedding(weighted_table(vocabulary, projection, special_ids), projection, {"form": "quick", **PRIOR})


def look_up_vectors(table: Float32Array, texts: Sequence[Int32Array]) -> Float32Array:
    """Look-up vectors float32[n, d] of texts' ids, equal to those of `cache.semantic.static_embedding`."""
    out = np.empty((len(texts), table.shape[1]), dtype=np.float32)
    for index, ids in enumerate(texts):
        tokens, counts = np.unique(ids, return_counts=True)
        total = (1 + np.log(counts)).astype(np.float32) @ table[tokens]
        out[index] = total / max(float(np.linalg.norm(total)), 1e-9)
    return out


def spearman(look_ups: Float32Array, vectors: Float32Array, seed: int = 0) -> float:
    """Rank correlation of the look-up vectors' cosine with the engine vectors' over random pairs of texts."""
    draw = np.random.default_rng(seed)
    a, b = draw.integers(0, len(look_ups), (2, SPEARMAN_PAIRS))
    a, b = a[a != b], b[a != b]
    near, true = (np.einsum("nd,nd->n", side[a], side[b], dtype=np.float64) for side in (look_ups, vectors))
    return ranks.spearman(near, true)
