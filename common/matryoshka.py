"""A vector's leading dimensions as a vector of their own."""

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


def shortened(vectors: Float32Array, dimensions: int, *, layer_norm: bool = False) -> Float32Array:
    """float32[..., d] -> float32[..., dimensions]: the leading dimensions, brought to unit length; nought stays nought.

    layer_norm: take the mean of all d dimensions off first, as models trained with a layer norm before the cut need it
    (nomic-embed-text-v1.5: layer_norm, cut, normalise). Its division by the deviation goes with the unit length.
    """
    if layer_norm:
        vectors = vectors - vectors.mean(axis=-1, keepdims=True)
    kept = vectors[..., :dimensions]
    lengths = np.linalg.norm(kept, axis=-1, keepdims=True)
    short: Float32Array = (kept / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return short
