"""Ragged token ids of a batch -> the arrays a bundle's graph takes. Pure numpy.

The graph computes on packed tokens: the T tokens of B texts one after the other, without padding. Attention and
pooling alone see the padded form [B, S], S the longest text's length rounded up to a multiple of four; two index arrays
lead there and back. Four, because Softmax's kernel for CPUs without AVX adds four numbers at a time and what is left
one by one: a row of another length would be summed in another order, and its text's vector change with its batch.

    input_ids       int32[T]      all token ids, text after text
    position_ids    int32[T]      each token's place in its own text
    rows            int32[B, S]   the packed row of each padded place; padding repeats the text's own first token
    slots           int32[T]      the padded place b * S + s of each packed token
    attention_mask  int32[B, S]   1 for a token, 0 for padding

These names stand here and in `engine.build` alone: code that runs a graph passes on what `feeds` returns, and to the
queue a graph is a `Run`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.protocol import Float32Array, Int32Array

PADDED_TO = 4

Feeds = dict[str, npt.NDArray[Any]]
"""A graph's inputs by name."""

Run = Callable[[Sequence[Int32Array]], Float32Array]
"""Token ids of B texts, int32[length] each -> float32[B, dimensions], row i for text i. May raise."""


def feeds(texts: Sequence[Int32Array], padded_to: int = PADDED_TO) -> Feeds:
    """The graph's inputs for one batch of n arrays int32[length_i], each with at least one token id.

    padded_to: the longest length is rounded up to a multiple of this.
    Raises ValueError on an empty batch and on a text without tokens.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
    if not len(texts) or int(lengths.min()) == 0:
        raise ValueError("a batch needs at least one text, and every text at least one token")
    starts = np.cumsum(lengths, dtype=np.int32) - lengths
    places = np.arange(-(-int(lengths.max()) // padded_to) * padded_to, dtype=np.int32)
    is_token = places < lengths[:, None]
    padded_positions = np.where(is_token, places, 0)
    return {
        "input_ids": np.concatenate(texts).astype(np.int32, copy=False),
        "position_ids": padded_positions[is_token],
        "rows": starts[:, None] + padded_positions,
        "slots": np.flatnonzero(is_token).astype(np.int32),
        "attention_mask": is_token.astype(np.int32),
    }
