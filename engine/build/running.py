"""A graph as a function while a bundle is built: calibration, quality and the static embedding need vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from engine.feeds import feeds
from engine.model.cpu_session import open_cpu_session
from engine.protocol import Float32Array, Int32Array

BATCH_SIZE = 16

Run = Callable[[dict[str, npt.NDArray[Any]]], dict[str, Float32Array]]


def open_graph(model: onnx.ModelProto | bytes, threads: int = 0) -> Run:
    """A function from a graph's inputs to its outputs by name. threads: of one operator; 0 means one per core."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = open_cpu_session(content, threads)
    names = [output.name for output in session.get_outputs()]

    def run(inputs: dict[str, npt.NDArray[Any]]) -> dict[str, Float32Array]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def embed(run: Run, texts: Sequence[Int32Array]) -> Float32Array:
    """Vectors float32[n, dimensions] in the order of `texts`, computed in batches of similar length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    computed = np.concatenate([run(feeds([texts[i] for i in batch]))["embeddings"] for batch in batches])
    vectors = np.empty_like(computed)
    vectors[order] = computed
    return vectors
