"""An encoder's weights: safetensors in, plain named arrays out, whatever the family's checkpoint calls them.

Matrices are kept as [inputs, outputs], so that a linear layer is `x @ weight + bias`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx  # noqa: F401  # teaches numpy bfloat16, which many checkpoints have
from safetensors import SafetensorError, safe_open

from engine.build.checkpoint.families import Layout, Part
from engine.build.checkpoint.shape import Shape
from engine.build.errors import CheckpointError
from engine.protocol import Float32Array

PREFIXES = (
    "", "bert.", "roberta.", "distilbert.", "mpnet.", "nomic_bert.", "new.", "gte.", "model.", "0.auto_model.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight + bias`; weight float32[inputs, outputs], bias float32[outputs] or None."""

    weight: Float32Array
    bias: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis; both float32[hidden]."""

    gamma: Float32Array
    beta: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Outliers:
    """Feed-forward neurons kept apart: up and gate of their own, and what they add to the layer's output.

    up, gate: weight float32[hidden, n]; down: float32[n, hidden], whose bias is the layer's.
    """

    up: Linear
    gate: Linear | None
    down: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer. With norms after, in the order it is computed; with norms before, each norm comes first."""

    query: Linear
    key: Linear
    value: Linear
    attention_out: Linear
    attention_norm: LayerNorm | None
    up: Linear
    gate: Linear | None
    down: Linear
    norm: LayerNorm
    outliers: Outliers | None = None

    def with_outliers(self, neurons: npt.NDArray[np.intp]) -> "Layer":
        """The same layer with some feed-forward neurons, int[n], kept apart; `down` then adds no bias of its own."""
        if not len(neurons):
            return self
        down = self.down
        apart = Outliers(
            up=_columns(self.up, neurons),
            gate=self.gate and _columns(self.gate, neurons),
            down=Linear(np.ascontiguousarray(down.weight[neurons]), down.bias),
        )
        return replace(
            self,
            up=_without_columns(self.up, neurons),
            gate=self.gate and _without_columns(self.gate, neurons),
            down=Linear(np.delete(down.weight, neurons, axis=0)),
            outliers=apart,
        )


def _columns(linear: Linear, neurons: npt.NDArray[np.intp]) -> Linear:
    weight = np.ascontiguousarray(linear.weight[:, neurons])
    return Linear(weight, None if linear.bias is None else linear.bias[neurons])


def _without_columns(linear: Linear, neurons: npt.NDArray[np.intp]) -> Linear:
    weight = np.delete(linear.weight, neurons, axis=1)
    return Linear(weight, None if linear.bias is None else np.delete(linear.bias, neurons))


@dataclass(frozen=True, slots=True)
class Weights:
    """All that an encoder computes with. The token type is always 0: its row is in `positions`, or else in `words`.

    words: float32[vocab_size, hidden]; positions: float32[max_positions, hidden], where they are learned;
    relative_bias: float32[buckets, heads], added to the scores by distance; final_norm: where norms stand before.
    """

    shape: Shape
    words: Float32Array
    positions: Float32Array | None
    relative_bias: Float32Array | None
    embedding_norm: LayerNorm
    layers: tuple[Layer, ...]
    final_norm: LayerNorm | None


def read_weights(path: Path, shape: Shape) -> Weights:
    """Read `model.safetensors`. Poolers and heads in the file are ignored.

    Raises CheckpointError naming a tensor that is missing or has another shape than `config.json` gives.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return _Reader(file, shape).weights()
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type of number that numpy has not
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


class _Reader:
    """Finds tensors in whatever layout, and under whatever prefix, the checkpoint was saved."""

    def __init__(self, file: Any, shape: Shape) -> None:
        self._file = file
        self._shape = shape
        self._names = set(file.keys())
        self._prefix, self._layout = self._find_layout()

    def _find_layout(self) -> tuple[str, Layout]:
        """The first layout whose words are there and whose first layer has any tensor."""
        layouts = self._shape.family.layouts
        found = [(prefix, layout) for layout in layouts for prefix in PREFIXES if prefix + layout.words in self._names]
        if not found:
            raise CheckpointError(f"the checkpoint has no tensor {layouts[0].words} (looked with prefixes {PREFIXES})")
        for prefix, layout in found:
            start = f"{prefix}{layout.layer.format(0)}."
            if any(f"{start}{name}.weight" in self._names for name in layout.linears):
                return prefix, layout
        return found[0]

    def weights(self) -> Weights:
        shape, layout = self._shape, self._layout
        words = self._tensor(layout.words, shape.vocab_size, shape.hidden)
        positions = self._positions()
        if layout.type_embeddings and self._prefix + layout.type_embeddings in self._names:
            types = self._tensor(layout.type_embeddings, None, shape.hidden)
            if positions is None:
                words = words + types[0]
            else:
                positions = positions + types[0]
        relative_bias = self._tensor(layout.relative_bias, None, shape.heads) if layout.relative_bias else None
        embedding_norm = self._norm(layout.embedding_norm)
        layers = tuple(self._layer(index) for index in range(shape.layers))
        final_norm = self._norm(layout.final_norm) if layout.final_norm else None
        return Weights(shape, words, positions, relative_bias, embedding_norm, layers, final_norm)

    def _positions(self) -> Float32Array | None:
        shape = self._shape
        if not self._layout.positions:
            return None
        table = self._tensor(self._layout.positions, shape.max_positions + shape.position_offset, shape.hidden)
        return table[shape.position_offset :]

    def _layer(self, index: int) -> Layer:
        layout, family = self._layout, self._shape.family
        at = layout.layer.format(index)
        parts: dict[Part, Linear] = {}
        for name, names in layout.linears.items():
            parts.update(zip(names, self._linears(f"{at}.{name}", names), strict=True))
        has_norm = index > 0 or family.first_layer_norm
        return Layer(
            query=parts["query"],
            key=parts["key"],
            value=parts["value"],
            attention_out=parts["attention_out"],
            attention_norm=self._norm(f"{at}.{layout.attention_norm}") if has_norm else None,
            up=parts["up"],
            gate=parts["gate"] if family.gated else None,
            down=parts["down"],
            norm=self._norm(f"{at}.{layout.norm}"),
        )

    def _linears(self, name: str, parts: tuple[Part, ...]) -> list[Linear]:
        """The linear layers that lie one after the other in tensor `name`."""
        hidden, wide = self._shape.hidden, self._shape.intermediate
        inputs = wide if parts == ("down",) else hidden
        outputs = wide if parts[0] in ("up", "gate") else hidden
        weight = self._tensor(f"{name}.weight", outputs * len(parts), inputs)
        bias = self._bias(f"{name}.bias", outputs * len(parts))
        weights = np.split(weight, len(parts))
        biases = [None] * len(parts) if bias is None else np.split(bias, len(parts))
        return [Linear(np.ascontiguousarray(w.T), b) for w, b in zip(weights, biases, strict=True)]

    def _norm(self, name: str) -> LayerNorm:
        old = f"{self._prefix}{name}.gamma" in self._names  # the first BERT checkpoints' names
        gamma, beta = ("gamma", "beta") if old else ("weight", "bias")
        hidden = self._shape.hidden
        return LayerNorm(self._tensor(f"{name}.{gamma}", hidden), self._bias(f"{name}.{beta}", hidden))

    def _bias(self, name: str, size: int) -> Float32Array | None:
        """A bias; None where the family may do without and the file has none."""
        if not self._shape.family.biases and self._prefix + name not in self._names:
            return None
        return self._tensor(name, size)

    def _tensor(self, name: str, *shape: int | None) -> Float32Array:
        name = self._prefix + name
        if name not in self._names:
            raise CheckpointError(f"the checkpoint has no tensor {name}")
        tensor = np.asarray(self._file.get_tensor(name), dtype=np.float32)
        expected = tuple(size if size is not None else tensor.shape[i] for i, size in enumerate(shape))
        if tensor.shape != expected:
            raise CheckpointError(f"tensor {name} has shape {tensor.shape}, by config.json it is {expected}")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"tensor {name} holds values that are not finite")
        return tensor
