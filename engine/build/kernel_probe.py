"""A tiny graph that shows whether this CPU's uint8 x int8 product is exact.

x86-64 without VNNI multiplies with VPMADDUBSW, whose 16-bit sums of two products saturate. The graph returns what
the CPU makes of the extremes beside what is right, so that the engine can tell without knowing the CPU:

    a         uint8[rows, 64]   feed 255 everywhere
    result    int32[rows, 32]   the kernel's answer
    expected  int32[1, 32]      the exact answer for 255 everywhere
"""

import numpy as np
import onnx

from engine.build.onnx_writer import GraphWriter

INPUTS = 64
OUTPUTS = 32


def write_kernel_probe() -> onnx.ModelProto:
    """The probe as a model; columns alternate between all 127 and all -127."""
    weight = np.full((INPUTS, OUTPUTS), 127, dtype=np.int8)
    weight[:, 1::2] = -127
    expected = np.full((1, INPUTS), 255, dtype=np.int32) @ weight.astype(np.int32)
    graph = GraphWriter("kernel_probe")
    a = graph.input("a", np.uint8, ["rows", INPUTS])
    product = graph.op("MatMulInteger", a, graph.constant("weight", weight))
    graph.output(product, "result", np.int32, ["rows", OUTPUTS])
    graph.output(graph.constant("exact", expected), "expected", np.int32, [1, OUTPUTS])
    return graph.model()
