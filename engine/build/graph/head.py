"""What comes after the encoder: pooling, Dense modules, normalisation; always in float32."""

from dataclasses import dataclass

import numpy as np

from engine.build.checkpoint.dense import Dense
from engine.build.graph.inputs import Inputs
from engine.build.graph.onnx_writer import GraphWriter
from engine.bundle import Pooling

NORM_FLOOR = 1e-12


@dataclass(frozen=True, slots=True)
class Head:
    """What is done to the token states of a text, in this order."""

    pooling: Pooling
    normalize: bool
    dense: tuple[Dense, ...] = ()

    def dimensions(self, hidden: int) -> int:
        """Size of the vectors that come out."""
        return self.dense[-1].linear.weight.shape[1] if self.dense else hidden


def write_head(graph: GraphWriter, x: str, inputs: Inputs, head: Head) -> str:
    """Token states float32[T, hidden] -> vectors float32[B, dimensions]."""
    vectors = _pool(graph, x, inputs, head.pooling)
    for index, dense in enumerate(head.dense):
        vectors = _dense(graph, vectors, dense, f"dense.{index}")
    return _unit_length(graph, vectors) if head.normalize else vectors


def _pool(graph: GraphWriter, x: str, inputs: Inputs, pooling: Pooling) -> str:
    lengths = graph.op("ReduceSum", inputs.attention_mask, graph.integers(1), keepdims=0)  # int32: exact
    if pooling == "mean":
        sums = _sum_tokens(graph, x, inputs)
        return graph.op("Div", sums, graph.op("Unsqueeze", graph.cast(lengths, np.float32), graph.integers(1)))
    first = graph.op("Gather", inputs.rows, graph.constant("first", np.array(0, dtype=np.int64)), axis=1)
    if pooling == "cls":
        return graph.op("Gather", x, first)
    one = graph.constant("one", np.array(1, dtype=np.int32))
    return graph.op("Gather", x, graph.op("Add", first, graph.op("Sub", lengths, one)))


def _sum_tokens(graph: GraphWriter, x: str, inputs: Inputs) -> str:
    """Sum of each text's token states, [B, hidden], through a product of two equal rows."""
    mask = graph.cast(graph.op("Unsqueeze", inputs.attention_mask, graph.integers(1)), np.float32)
    twice = graph.op("Concat", mask, mask, axis=1)
    sums = graph.op("MatMul", twice, graph.op("Gather", x, inputs.rows))
    return graph.op("Gather", sums, graph.constant("first", np.array(0, dtype=np.int64)), axis=1)


def _dense(graph: GraphWriter, vectors: str, dense: Dense, name: str) -> str:
    """All vectors twice, so that a lone one does not meet the one-row kernel."""
    weight = dense.linear.weight
    twice = graph.op("Concat", vectors, vectors, axis=0)
    product = graph.op("MatMul", twice, graph.constant(name, weight))
    halves = graph.op("Reshape", product, graph.integers(2, -1, weight.shape[1]))
    out = graph.op("Gather", halves, graph.constant("first", np.array(0, dtype=np.int64)), axis=0)
    if dense.linear.bias is not None:
        out = graph.op("Add", out, graph.constant(f"{name}.bias", dense.linear.bias))
    return out if dense.activation == "Identity" else graph.op(dense.activation, out)


def _unit_length(graph: GraphWriter, vectors: str) -> str:
    """Divide each row by its L2 norm, the sum of squares taken as a row times a column."""
    row = graph.op("Unsqueeze", vectors, graph.integers(1))
    column = graph.op("Unsqueeze", vectors, graph.integers(2))
    square = graph.op("Reshape", graph.op("MatMul", row, column), graph.integers(-1, 1))
    return graph.op("Div", vectors, graph.op("Max", graph.op("Sqrt", square), graph.number(NORM_FLOOR)))
