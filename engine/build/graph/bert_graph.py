"""The BERT encoder as an ONNX graph over packed tokens.

The T tokens of B texts lie one after the other; linears, norms and GELU run on them without padding. Attention and
pooling see the padded form [B, S], reached through `rows` and left through `slots` (see `engine.feeds`).

A text's vector is the same to the byte whatever it is batched with. What that needs, measured on x86-64 with
AVX-512 (ONNX Runtime 1.31):
- sums over tokens run in a product of at least two rows: the one-row kernel adds in groups of four, so that a text
  of 4n + 3 tokens changed with its padding; the general kernel adds one by one, and zeros at the end change nothing
- no ReduceSum or ReduceL2 over float32: they take another kernel for a batch of one
- padding repeats a text's own first token, so no other text's values come near its sums
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx

from engine.build.checkpoint.weights import BertWeights, Layer, LayerNorm, Outliers
from engine.build.graph.linears import Linears
from engine.build.graph.onnx_writer import CONTRIB, GraphWriter
from engine.bundle import Pooling
from engine.protocol import Float32Array

GELU_MINIMUM = -0.1701  # of both GELUs, rounded down; ReLU's is 0
NORM_FLOOR = 1e-12
MASKED = -1e9  # added to a score; its weight underflows to exactly 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """The names of the graph's inputs; shapes and meaning in `engine.feeds`."""

    input_ids: str
    position_ids: str
    rows: str
    slots: str
    attention_mask: str


@dataclass(frozen=True, slots=True)
class HeadPlaces:
    """Where attention heads lie; index arrays for Gather on rows of one head each.

    query, key, value: int32[B, heads, S], rows of packed matrices, of which key and value share one;
    packed: int32[T, heads], rows of the padded result; mask: float32[B, 1, 1, S], added to the scores.
    """

    query: str
    key: str
    value: str
    packed: str
    mask: str


def write_graph(weights: BertWeights, linears: Linears, pooling: Pooling, normalize: bool) -> onnx.ModelProto:
    """The whole model: `engine.feeds` arrays -> embeddings float32[B, hidden]."""
    return _BertGraph(weights, linears).write(pooling, normalize)


class _BertGraph:
    """Holds what every node needs while one graph is written."""

    def __init__(self, weights: BertWeights, linears: Linears) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._linears = linears
        self._graph = GraphWriter("embedding")

    def write(self, pooling: Pooling, normalize: bool) -> onnx.ModelProto:
        graph = self._graph
        inputs = Inputs(
            input_ids=graph.input("input_ids", np.int32, ["tokens"]),
            position_ids=graph.input("position_ids", np.int32, ["tokens"]),
            rows=graph.input("rows", np.int32, ["texts", "longest"]),
            slots=graph.input("slots", np.int32, ["tokens"]),
            attention_mask=graph.input("attention_mask", np.int32, ["texts", "longest"]),
        )
        places = self._head_places(inputs)
        x = self._embed(inputs)
        for index, layer in enumerate(self._weights.layers):
            x = self._layer(x, layer, f"layer.{index}", places)
        vectors = self._pool(x, inputs, pooling)
        if normalize:
            vectors = self._unit_length(vectors)
        graph.output(vectors, "embeddings", np.float32, ["texts", self._shape.hidden])
        return graph.model()

    def _embed(self, inputs: Inputs) -> str:
        graph, weights = self._graph, self._weights
        words = self._linears.look_up(graph, "words", weights.words, inputs.input_ids)
        positions = graph.op("Gather", graph.constant("positions", weights.positions), inputs.position_ids)
        return self._norm(graph.op("Add", words, positions), weights.embedding_norm, "embeddings.norm")

    def _layer(self, x: str, layer: Layer, name: str, places: HeadPlaces) -> str:
        context = self._attention(x, layer, name, places)
        out = self._linear(context, f"{name}.out", layer.attention_out.weight, _out_bias(layer))
        x = self._norm(self._graph.op("Add", out, x), layer.attention_norm, f"{name}.attention_norm")
        wide = self._linear(x, f"{name}.up", layer.up.weight, None)
        active, lowest = self._activation(wide, f"{name}.up.bias", layer.up.bias)
        bias = layer.down.bias if layer.outliers is None else None
        down = self._linear(active, f"{name}.down", layer.down.weight, bias, lowest)
        if layer.outliers is not None:
            down = self._graph.op("Add", down, self._outliers(x, layer.outliers, f"{name}.outliers"))
        return self._norm(self._graph.op("Add", down, x), layer.norm, f"{name}.norm")

    def _outliers(self, x: str, outliers: Outliers, name: str) -> str:
        """What the neurons kept apart add to the layer's output, its bias included; float32 throughout."""
        graph = self._graph
        wide = graph.op("MatMul", x, graph.constant(f"{name}.up", outliers.up.weight))
        active, _ = self._activation(wide, f"{name}.up.bias", outliers.up.bias)
        down = outliers.down
        return graph.op(
            "Gemm", active, graph.constant(f"{name}.down", down.weight), graph.constant(f"{name}.down.bias", down.bias)
        )

    def _attention(self, x: str, layer: Layer, name: str, places: HeadPlaces) -> str:
        """Scaled dot products over the padded heads, float32[B, heads, S, head_size] each; back to packed tokens.

        The key's bias adds the same to all scores of a row, which softmax takes out again; the value's bias comes
        through unchanged, because weights add up to 1, and is part of the output's bias.
        """
        graph, shape, site = self._graph, self._shape, f"{name}.qkv"
        prepared = self._linears.prepare(graph, x, site)
        query = self._linears.multiply(graph, prepared, site, "query", layer.query.weight, layer.query.bias)
        query = self._heads(query, places.query)
        key_value = np.concatenate([layer.key.weight, layer.value.weight], axis=1)
        both = self._linears.multiply(graph, prepared, site, "key_value", key_value, None)
        key, value = self._heads(both, places.key), self._heads(both, places.value)
        alpha = 1 / math.sqrt(shape.head_size)
        scores = graph.op("FusedMatMul", query, key, domain=CONTRIB, transB=1, alpha=alpha)
        weights = graph.op("Softmax", graph.op("Add", scores, places.mask), axis=-1)
        context = graph.op("MatMul", weights, value)
        rows = graph.op("Reshape", context, graph.integers(-1, shape.head_size))
        return graph.op("Reshape", graph.op("Gather", rows, places.packed), graph.integers(-1, shape.hidden))

    def _heads(self, packed: str, places: str) -> str:
        """[T, n * head_size] -> [B, heads, S, head_size] in one Gather: padded and transposed for one copy."""
        graph = self._graph
        return graph.op("Gather", graph.op("Reshape", packed, graph.integers(-1, self._shape.head_size)), places)

    def _head_places(self, inputs: Inputs) -> HeadPlaces:
        """Head n of token t is row t * heads + n of the packed matrix, (b * heads + n) * S + s of the padded one."""
        graph, heads = self._graph, self._shape.heads
        each = graph.constant("each_head", np.arange(heads, dtype=np.int32))
        column = graph.constant("head_column", np.arange(heads, dtype=np.int32)[:, None])
        rows = graph.op("Unsqueeze", inputs.rows, graph.integers(1))
        query = graph.op("Add", graph.op("Mul", rows, self._int32("heads", heads)), column)
        key = graph.op("Add", graph.op("Mul", rows, self._int32("key_value_heads", 2 * heads)), column)
        value = graph.op("Add", key, self._int32("heads", heads))
        longest = graph.cast(graph.op("Shape", inputs.rows, start=1, end=2), np.int32)
        text = graph.op("Div", inputs.slots, longest)
        before = graph.op("Mul", graph.op("Mul", text, longest), self._int32("other_heads", heads - 1))
        start = graph.op("Add", inputs.slots, before)
        packed = graph.op("Add", graph.op("Unsqueeze", start, graph.integers(1)), graph.op("Mul", each, longest))
        is_padding = graph.op("Equal", inputs.attention_mask, self._int32("zero", 0))
        mask = graph.op("Where", is_padding, graph.number(MASKED), graph.number(0.0))
        return HeadPlaces(query, key, value, packed, graph.op("Unsqueeze", mask, graph.integers(1, 2)))

    def _int32(self, name: str, value: int) -> str:
        return self._graph.constant(name, np.array(value, dtype=np.int32))

    def _linear(
        self, x: str, site: str, weight: Float32Array, bias: Float32Array | None, lowest: float | None = None
    ) -> str:
        prepared = self._linears.prepare(self._graph, x, site, lowest)
        return self._linears.multiply(self._graph, prepared, site, "weight", weight, bias)

    def _activation(self, x: str, bias_name: str, bias: Float32Array) -> tuple[str, float]:
        """The activation of x + bias, and a number it never falls below."""
        graph, kind = self._graph, self._shape.activation
        constant = graph.constant(bias_name, bias)
        if kind == "relu":
            return graph.op("Relu", graph.op("Add", x, constant)), 0.0
        exact = kind == "gelu" and not self._linears.approximate_gelu
        return graph.op("BiasGelu" if exact else "FastGelu", x, constant, domain=CONTRIB), GELU_MINIMUM

    def _norm(self, x: str, norm: LayerNorm, name: str) -> str:
        graph = self._graph
        gamma, beta = graph.constant(f"{name}.gamma", norm.gamma), graph.constant(f"{name}.beta", norm.beta)
        return graph.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=self._shape.epsilon)

    def _pool(self, x: str, inputs: Inputs, pooling: Pooling) -> str:
        graph = self._graph
        lengths = graph.op("ReduceSum", inputs.attention_mask, graph.integers(1), keepdims=0)  # int32: exact
        if pooling == "mean":
            return graph.op("Div", self._sum_tokens(x, inputs), self._column(lengths))
        first = graph.op("Gather", inputs.rows, graph.constant("first", np.array(0, dtype=np.int64)), axis=1)
        if pooling == "cls":
            return graph.op("Gather", x, first)
        return graph.op("Gather", x, graph.op("Add", first, graph.op("Sub", lengths, self._int32("one", 1))))

    def _sum_tokens(self, x: str, inputs: Inputs) -> str:
        """Sum of each text's token states, [B, hidden], through a product of two equal rows."""
        graph = self._graph
        mask = graph.cast(graph.op("Unsqueeze", inputs.attention_mask, graph.integers(1)), np.float32)
        twice = graph.op("Concat", mask, mask, axis=1)
        sums = graph.op("MatMul", twice, graph.op("Gather", x, inputs.rows))
        return graph.op("Gather", sums, graph.constant("first", np.array(0, dtype=np.int64)), axis=1)

    def _column(self, lengths: str) -> str:
        return self._graph.op("Unsqueeze", self._graph.cast(lengths, np.float32), self._graph.integers(1))

    def _unit_length(self, vectors: str) -> str:
        """Divide each row by its L2 norm, the sum of squares taken as a row times a column."""
        graph = self._graph
        row = graph.op("Unsqueeze", vectors, graph.integers(1))
        column = graph.op("Unsqueeze", vectors, graph.integers(2))
        square = graph.op("Reshape", graph.op("MatMul", row, column), graph.integers(-1, 1))
        return graph.op("Div", vectors, graph.op("Max", graph.op("Sqrt", square), graph.number(NORM_FLOOR)))


def _out_bias(layer: Layer) -> Float32Array:
    """The attention output's bias with the value's in it, float32[hidden]."""
    through = layer.value.bias.astype(np.float64) @ layer.attention_out.weight.astype(np.float64)
    return np.asarray(layer.attention_out.bias + through, dtype=np.float32)
