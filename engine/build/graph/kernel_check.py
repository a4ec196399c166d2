"""Writes `engine/model/kernel_check.onnx`: products whose weights are at the bounds that the builder keeps.

The file is part of the package, so that an engine needs no `onnx` to check its kernels; a test compares it with what
this module writes. To write it again: `python -m engine.build.graph.kernel_check`.
"""

import numpy as np
import onnx

from engine.build.graph.onnx_writer import CONTRIB, GraphWriter, Int8Array
from engine.build.graph.rounding import PAIR_LIMIT
from engine.model.cpu_session import KERNEL_CHECK

INPUTS = 72
OUTPUTS = 40
EXTREMES = ((127, 1), (1, 127), (64, 64), (100, 28), (127, -127), (0, 127), (127, 0))


def write_kernel_check() -> onnx.ModelProto:
    """The model described in `engine.model.cpu_session`."""
    graph = GraphWriter("kernel_check")
    a = graph.input("a", np.uint8, ["rows", INPUTS])
    # One copy for each use: ONNX Runtime cannot turn a weight of two products into uint8 twice.
    first, second, third = (graph.constant(f"weight_{place}", extreme_weights()) for place in range(3))
    one = graph.number(1.0)
    graph.output(graph.op("MatMulInteger", a, first), "integers", np.int32, ["rows", OUTPUTS])
    floats = graph.op("MatMulIntegerToFloat", a, second, one, one, domain=CONTRIB)
    graph.output(floats, "floats", np.float32, ["rows", OUTPUTS])
    graph.output(third, "weight", np.int8, [INPUTS, OUTPUTS])
    return graph.model()


def extreme_weights() -> Int8Array:
    """int8[72, 40]: each pair of extremes, and its negative, down a whole column; random pairs in the other columns."""
    rng = np.random.default_rng(0)
    first = rng.integers(-127, 128, (INPUTS // 2, OUTPUTS))
    room = np.minimum(127, PAIR_LIMIT - np.abs(first))
    second = np.where(rng.random(first.shape) < 0.5, room, -room)
    for column, (one, other) in enumerate(EXTREMES):
        first[:, 2 * column], second[:, 2 * column] = one, other
        first[:, 2 * column + 1], second[:, 2 * column + 1] = -one, -other
    return np.stack([first, second], axis=1).reshape(INPUTS, OUTPUTS).astype(np.int8)


if __name__ == "__main__":
    KERNEL_CHECK.write_bytes(write_kernel_check().SerializeToString(deterministic=True))
