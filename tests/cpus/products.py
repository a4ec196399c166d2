"""The integer products of an INT8 graph on their own: its weights, codes to multiply them by, and the right answers.

Written on this machine, so that the emulated one needs neither `onnx` nor a second way of multiplying.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from engine.build.graph.onnx_writer import GraphWriter, Int8Array
from engine.build.imported.contract import all_nodes
from tests.cpus.worker import PRODUCTS_ARRAYS, PRODUCTS_GRAPH, ROWS

OPERATORS = ("MatMulInteger", "MatMulIntegerToFloat")
LARGEST = 255  # in all places: every pair of neighbouring weights that could overflow 16 bits then does


def write_products(graph: Path, folder: Path) -> int:
    """Write what `worker.count_wrong_products` reads; returns how many matrices there are."""
    writer = GraphWriter("products")
    arrays: dict[str, np.ndarray] = {}
    weights = list(integer_weights(onnx.load(graph)))
    for index, weight in enumerate(weights):
        codes = _codes(len(weight), index)
        a = writer.input(f"codes.{index}", np.uint8, ["rows", len(weight)])
        product = writer.op("MatMulInteger", a, writer.constant(f"weight.{index}", weight))
        writer.output(product, f"product.{index}", np.int32, ["rows", weight.shape[1]])
        arrays[f"codes.{index}"] = codes
        # float64 holds these sums exactly, and its product is fast
        arrays[f"product.{index}"] = (codes.astype(np.float64) @ weight.astype(np.float64)).astype(np.int32)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PRODUCTS_GRAPH).write_bytes(writer.model().SerializeToString())
    np.savez(folder / PRODUCTS_ARRAYS, **arrays)  # type: ignore[arg-type]  # its stub takes the names for its options
    return len(weights)


def integer_weights(model: onnx.ModelProto) -> Iterator[Int8Array]:
    """The constant int8[K, N] matrices that the graph multiplies by."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in all_nodes(model.graph.node):
        if node.op_type in OPERATORS:
            yield np.asarray(numpy_helper.to_array(constants[node.input[1]]), dtype=np.int8)


def _codes(width: int, seed: int) -> np.ndarray:
    """uint8[rows, width]: a row of the largest, the others random."""
    codes = np.random.default_rng(seed).integers(0, LARGEST + 1, (max(ROWS), width), dtype=np.uint8)
    codes[0] = LARGEST
    return codes
