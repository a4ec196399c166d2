"""An encoder of any family as an ONNX graph over packed tokens.

The T tokens of B texts lie one after the other; linears, norms and activations run on them without padding. Attention
(`engine.build.graph.attention`) and pooling (`engine.build.graph.head`) see the padded form [B, S].

A text's vector is the same to the byte whatever it is batched with. What that needs, measured on x86-64 with
AVX-512 (ONNX Runtime 1.31):
- sums over tokens run in a product of at least two rows: the one-row kernel adds in groups of four, so that a text
  of 4n + 3 tokens changed with its padding; the general kernel adds one by one, and zeros at the end change nothing
- no ReduceSum or ReduceL2 over float32: they take another kernel for a batch of one
- padding repeats a text's own first token, so no other text's values come near its sums
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from engine.build.checkpoint.weights import Layer, LayerNorm, Linear, Outliers, Weights
from engine.build.graph.attention import AttentionWriter
from engine.build.graph.head import Head, write_head
from engine.build.graph.inputs import Inputs
from engine.build.graph.linears import Linears
from engine.build.graph.onnx_writer import CONTRIB, GraphWriter
from engine.protocol import Float32Array

GELU_MINIMUM = -0.1701  # of both GELUs, rounded down; ReLU's is 0
SILU_MINIMUM = -0.2785
UNTILED_TOKENS = 512  # a model of no more positions has no loop; 12 heads x 512 x 512 scores are 13 MB
CHUNK_TOKENS = 1024  # of a feed-forward in a loop; three times 1,024 x 3,072 numbers are 38 MB


def write_graph(weights: Weights, linears: Linears, head: Head, tiled: bool | None = None) -> onnx.ModelProto:
    """The whole model: `engine.feeds` arrays -> embeddings float32[B, dimensions].

    `tiled`: whether attention runs over tiles of query rows, and the feed-forward over chunks of tokens, so that
    memory is bounded; None: where the model takes long texts.
    """
    if tiled is None:
        tiled = weights.shape.max_positions > UNTILED_TOKENS
    return _EncoderGraph(weights, linears, tiled).write(head)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How T packed tokens are cut: `count`, int64, of them; `rows`, int64[count, size]; `tokens`, int64[1], is T."""

    count: str
    rows: str
    tokens: str


class _EncoderGraph:
    """Holds what every node needs while one graph is written."""

    def __init__(self, weights: Weights, linears: Linears, tiled: bool) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._linears = linears
        self._tiled = tiled
        self._graph = GraphWriter("embedding")

    def write(self, head: Head) -> onnx.ModelProto:
        graph = self._graph
        inputs = Inputs.declare(graph)
        attention = AttentionWriter(graph, self._shape, self._linears, inputs, self._weights.relative_bias, self._tiled)
        chunks = self._cut(inputs) if self._tiled and self._linears.in_loops else None
        x = self._embed(inputs)
        for index, layer in enumerate(self._weights.layers):
            x = self._layer(x, layer, index, attention, chunks)
        if self._weights.final_norm is not None:
            x = self._norm(x, self._weights.final_norm, "final_norm")
        dimensions = head.dimensions(self._shape.hidden)
        graph.output(write_head(graph, x, inputs, head), "embeddings", np.float32, ["texts", dimensions])
        return graph.model()

    def _embed(self, inputs: Inputs) -> str:
        graph, weights = self._graph, self._weights
        x = self._linears.look_up(graph, "words", weights.words, inputs.input_ids)
        if weights.positions is not None:
            positions = graph.op("Gather", graph.constant("positions", weights.positions), inputs.position_ids)
            x = graph.op("Add", x, positions)
        return self._norm(x, weights.embedding_norm, "embeddings.norm")

    def _layer(self, x: str, layer: Layer, index: int, attention: AttentionWriter, chunks: "_Chunks | None") -> str:
        graph, name = self._graph, f"layer.{index}"
        norms_first = self._shape.family.norms_first
        normed = self._norm(x, layer.attention_norm, f"{name}.attention_norm") if norms_first else x
        context = attention.attend(normed, layer, index)
        out = self._linear(graph, context, f"{name}.out", layer.attention_out.weight, _out_bias(layer))
        x = graph.op("Add", out, x)
        x = x if norms_first else self._norm(x, layer.attention_norm, f"{name}.attention_norm")
        inner = self._norm(x, layer.norm, f"{name}.norm") if norms_first else x
        wide = partial(self._feed_forward, layer=layer, name=name)
        x = graph.op("Add", wide(graph, inner) if chunks is None else self._in_chunks(inner, chunks, wide), x)
        return x if norms_first else self._norm(x, layer.norm, f"{name}.norm")

    def _cut(self, inputs: Inputs) -> "_Chunks":
        """As few chunks of about the same size as hold all tokens; the last one goes on with the last token."""
        graph = self._graph
        tokens = graph.op("Shape", inputs.input_ids)
        some = self._divide_up(tokens, graph.integers(CHUNK_TOKENS))
        size = self._divide_up(tokens, some)
        count = graph.op("Squeeze", self._divide_up(tokens, size))
        zero, one = (graph.constant(f"int64_{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
        starts = graph.op("Mul", graph.op("Range", zero, count, one), size)
        places = graph.op("Range", zero, graph.op("Squeeze", size), one)
        rows = graph.op("Add", graph.op("Unsqueeze", starts, graph.integers(1)), places)
        return _Chunks(count, graph.op("Min", rows, graph.op("Sub", tokens, graph.integers(1))), tokens)

    def _divide_up(self, number: str, divisor: str) -> str:
        graph = self._graph
        return graph.op("Div", graph.op("Sub", graph.op("Add", number, divisor), graph.integers(1)), divisor)

    def _in_chunks(self, x: str, chunks: "_Chunks", write: Callable[[GraphWriter, str], str]) -> str:
        """What `write` makes of the rows of x, float32[T, hidden], a chunk at a time."""
        graph = self._graph

        def body(inner: GraphWriter, index: str) -> str:
            return write(inner, inner.op("Gather", x, inner.op("Gather", chunks.rows, index)))

        together = graph.op("Reshape", graph.loop(chunks.count, body), graph.integers(-1, self._shape.hidden))
        return graph.op("Slice", together, graph.integers(0), chunks.tokens, graph.integers(0))

    def _feed_forward(self, graph: GraphWriter, x: str, layer: Layer, name: str) -> str:
        site, linears = f"{name}.up", self._linears
        prepared = linears.prepare(graph, x, site)
        if layer.gate is None:
            wide = linears.multiply(graph, prepared, site, "weight", layer.up.weight, None)
            active, lowest = self._activation(graph, wide, f"{site}.bias", layer.up.bias)
        else:
            gate = linears.multiply(graph, prepared, site, "gate", layer.gate.weight, None)
            active, lowest = self._activation(graph, gate, f"{site}.gate.bias", layer.gate.bias)[0], None
            up = linears.multiply(graph, prepared, site, "weight", layer.up.weight, layer.up.bias)
            active = graph.op("Mul", active, up)
        bias = layer.down.bias if layer.outliers is None else None
        down = self._linear(graph, active, f"{name}.down", layer.down.weight, bias, lowest)
        if layer.outliers is None:
            return down
        return graph.op("Add", down, self._outliers(graph, x, layer.outliers, f"{name}.outliers"))

    def _outliers(self, graph: GraphWriter, x: str, outliers: Outliers, name: str) -> str:
        """What the neurons kept apart add to the layer's output, its bias included; float32 throughout."""
        if outliers.gate is None:
            wide = graph.op("MatMul", x, graph.constant(f"{name}.up", outliers.up.weight))
            active, _ = self._activation(graph, wide, f"{name}.up.bias", outliers.up.bias)
        else:
            wide = graph.op("MatMul", x, graph.constant(f"{name}.gate", outliers.gate.weight))
            active, _ = self._activation(graph, wide, f"{name}.gate.bias", outliers.gate.bias)
            active = graph.op("Mul", active, _product(graph, x, f"{name}.up", outliers.up))
        return _product(graph, active, f"{name}.down", outliers.down)

    def _linear(
        self,
        graph: GraphWriter,
        x: str,
        site: str,
        weight: Float32Array,
        bias: Float32Array | None,
        lowest: float | None = None,
    ) -> str:
        prepared = self._linears.prepare(graph, x, site, lowest)
        return self._linears.multiply(graph, prepared, site, "weight", weight, bias)

    def _activation(self, graph: GraphWriter, x: str, bias_name: str, bias: Float32Array | None) -> tuple[str, float]:
        """The activation of x + bias, and a number it never falls below."""
        kind = self._shape.activation
        constant = () if bias is None else (graph.constant(bias_name, bias),)
        if kind in ("relu", "silu"):
            shifted = graph.op("Add", x, *constant) if constant else x
            if kind == "relu":
                return graph.op("Relu", shifted), 0.0
            return graph.op("QuickGelu", shifted, domain=CONTRIB, alpha=1.0), SILU_MINIMUM  # x * sigmoid(alpha * x)
        exact = kind == "gelu" and not self._linears.approximate_gelu
        operator = ("BiasGelu" if constant else "Gelu") if exact else "FastGelu"
        return graph.op(operator, x, *constant, domain=CONTRIB), GELU_MINIMUM

    def _norm(self, x: str, norm: LayerNorm | None, name: str) -> str:
        """The norm of x; x itself where the layer has none there."""
        if norm is None:
            return x
        graph = self._graph
        scales = [graph.constant(f"{name}.gamma", norm.gamma)]
        if norm.beta is not None:
            scales.append(graph.constant(f"{name}.beta", norm.beta))
        return graph.op("LayerNormalization", x, *scales, axis=-1, epsilon=self._shape.epsilon)


def _product(graph: GraphWriter, x: str, name: str, linear: Linear) -> str:
    """float32 x float32."""
    weight = graph.constant(name, linear.weight)
    if linear.bias is None:
        return graph.op("MatMul", x, weight)
    return graph.op("Gemm", x, weight, graph.constant(f"{name}.bias", linear.bias))


def _out_bias(layer: Layer) -> Float32Array | None:
    """The attention output's bias with the value's in it, float32[hidden]: see `AttentionWriter.attend`."""
    if layer.value.bias is None:
        return layer.attention_out.bias
    through = layer.value.bias.astype(np.float64) @ layer.attention_out.weight.astype(np.float64)
    own = 0 if layer.attention_out.bias is None else layer.attention_out.bias
    return np.asarray(own + through, dtype=np.float32)
