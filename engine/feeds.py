"""Ragged token ids of a batch -> the arrays a bundle's graph takes. Pure numpy; nothing of ONNX Runtime.

The graph's inputs are known to this module and to `engine.build` only; whoever runs a graph passes on what
`feeds` returns, whatever its names.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.protocol import Int32Array


def feeds(texts: Sequence[Int32Array], pad_token_id: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the graph for one batch.

    texts: n arrays int32[length_i], each with at least one token id.
    Returns input_ids and attention_mask, both int64[n, longest]. Raises ValueError on an empty batch or text.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    if not len(texts) or int(lengths.min()) == 0:
        raise ValueError("a batch needs at least one text, and every text at least one token")
    attention_mask = np.arange(int(lengths.max())) < lengths[:, None]
    input_ids = np.full(attention_mask.shape, pad_token_id, dtype=np.int64)
    input_ids[attention_mask] = np.concatenate(texts)
    return {"input_ids": input_ids, "attention_mask": attention_mask.astype(np.int64)}
