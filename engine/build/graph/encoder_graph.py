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


def write_graph(weights: Weights, linears: Linears, head: Head, tiled: bool | None = None) -> onnx.ModelProto:
    """The whole model: `engine.feeds` arrays -> embeddings float32[B, dimensions].

    `tiled`: whether attention runs over tiles of query rows; None: where the model takes long texts.
    """
    return _EncoderGraph(weights, linears).write(head, tiled)


class _EncoderGraph:
    """Holds what every node needs while one graph is written."""

    def __init__(self, weights: Weights, linears: Linears) -> None:
        self._weights = weights
        self._shape = weights.shape
        self._linears = linears
        self._graph = GraphWriter("embedding")

    def write(self, head: Head, tiled: bool | None) -> onnx.ModelProto:
        graph = self._graph
        inputs = Inputs.declare(graph)
        attention = AttentionWriter(graph, self._shape, self._linears, inputs, self._weights.relative_bias, tiled)
        x = self._embed(inputs)
        for index, layer in enumerate(self._weights.layers):
            x = self._layer(x, layer, index, attention)
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

    def _layer(self, x: str, layer: Layer, index: int, attention: AttentionWriter) -> str:
        graph, name = self._graph, f"layer.{index}"
        norms_first = self._shape.family.norms_first
        normed = self._norm(x, layer.attention_norm, f"{name}.attention_norm") if norms_first else x
        context = attention.attend(normed, layer, index)
        out = self._linear(context, f"{name}.out", layer.attention_out.weight, _out_bias(layer))
        x = graph.op("Add", out, x)
        if norms_first:
            return graph.op("Add", self._feed_forward(self._norm(x, layer.norm, f"{name}.norm"), layer, name), x)
        x = self._norm(x, layer.attention_norm, f"{name}.attention_norm")
        return self._norm(graph.op("Add", self._feed_forward(x, layer, name), x), layer.norm, f"{name}.norm")

    def _feed_forward(self, x: str, layer: Layer, name: str) -> str:
        site = f"{name}.up"
        prepared = self._linears.prepare(self._graph, x, site)
        if layer.gate is None:
            wide = self._linears.multiply(self._graph, prepared, site, "weight", layer.up.weight, None)
            active, lowest = self._activation(wide, f"{site}.bias", layer.up.bias)
        else:
            gate = self._linears.multiply(self._graph, prepared, site, "gate", layer.gate.weight, None)
            active, lowest = self._activation(gate, f"{site}.gate.bias", layer.gate.bias)[0], None
            up = self._linears.multiply(self._graph, prepared, site, "weight", layer.up.weight, layer.up.bias)
            active = self._graph.op("Mul", active, up)
        bias = layer.down.bias if layer.outliers is None else None
        down = self._linear(active, f"{name}.down", layer.down.weight, bias, lowest)
        if layer.outliers is None:
            return down
        return self._graph.op("Add", down, self._outliers(x, layer.outliers, f"{name}.outliers"))

    def _outliers(self, x: str, outliers: Outliers, name: str) -> str:
        """What the neurons kept apart add to the layer's output, its bias included; float32 throughout."""
        graph = self._graph
        if outliers.gate is None:
            wide = graph.op("MatMul", x, graph.constant(f"{name}.up", outliers.up.weight))
            active, _ = self._activation(wide, f"{name}.up.bias", outliers.up.bias)
        else:
            wide = graph.op("MatMul", x, graph.constant(f"{name}.gate", outliers.gate.weight))
            active, _ = self._activation(wide, f"{name}.gate.bias", outliers.gate.bias)
            active = graph.op("Mul", active, self._product(x, f"{name}.up", outliers.up))
        return self._product(active, f"{name}.down", outliers.down)

    def _product(self, x: str, name: str, linear: Linear) -> str:
        """float32 x float32."""
        graph, weight = self._graph, self._graph.constant(name, linear.weight)
        if linear.bias is None:
            return graph.op("MatMul", x, weight)
        return graph.op("Gemm", x, weight, graph.constant(f"{name}.bias", linear.bias))

    def _linear(
        self, x: str, site: str, weight: Float32Array, bias: Float32Array | None, lowest: float | None = None
    ) -> str:
        prepared = self._linears.prepare(self._graph, x, site, lowest)
        return self._linears.multiply(self._graph, prepared, site, "weight", weight, bias)

    def _activation(self, x: str, bias_name: str, bias: Float32Array | None) -> tuple[str, float]:
        """The activation of x + bias, and a number it never falls below."""
        graph, kind = self._graph, self._shape.activation
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


def _out_bias(layer: Layer) -> Float32Array | None:
    """The attention output's bias with the value's in it, float32[hidden]: see `AttentionWriter.attend`."""
    if layer.value.bias is None:
        return layer.attention_out.bias
    through = layer.value.bias.astype(np.float64) @ layer.attention_out.weight.astype(np.float64)
    own = 0 if layer.attention_out.bias is None else layer.attention_out.bias
    return np.asarray(own + through, dtype=np.float32)
