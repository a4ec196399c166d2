"""The BERT family's weights: safetensors in, plain named arrays out.

Covers `BertModel` and the models built on it (MiniLM, BGE, E5, GTE, Arctic), RoBERTa and XLM-RoBERTa. Matrices are
kept as [inputs, outputs], so that a linear layer is `x @ weight + bias`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from engine.build.errors import CheckpointError, UnsupportedModel
from engine.protocol import Float32Array

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
ROBERTA_TYPES = ("roberta", "xlm-roberta")
MODEL_TYPES = ("bert", *ROBERTA_TYPES)
PREFIXES = ("", "bert.", "roberta.", "model.", "0.auto_model.")


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight + bias`; weight float32[inputs, outputs], bias float32[outputs]."""

    weight: Float32Array
    bias: Float32Array


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis; both float32[hidden]."""

    gamma: Float32Array
    beta: Float32Array


@dataclass(frozen=True, slots=True)
class Outliers:
    """Feed-forward neurons kept apart: up as a Linear of their own, and what they add to the layer's output.

    up: weight float32[hidden, n]; down: float32[n, hidden], whose bias is the layer's.
    """

    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """One encoder layer, in the order it is computed."""

    query: Linear
    key: Linear
    value: Linear
    attention_out: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    norm: LayerNorm
    outliers: Outliers | None = None

    def with_outliers(self, neurons: npt.NDArray[np.intp]) -> "Layer":
        """The same layer with some feed-forward neurons, int[n], kept apart; `down` then adds no bias of its own."""
        if not len(neurons):
            return self
        up, down = self.up, self.down
        apart = Outliers(
            Linear(np.ascontiguousarray(up.weight[:, neurons]), up.bias[neurons]),
            Linear(np.ascontiguousarray(down.weight[neurons]), down.bias),
        )
        rest = Linear(np.delete(up.weight, neurons, axis=1), np.delete(up.bias, neurons))
        down_rest = Linear(np.delete(down.weight, neurons, axis=0), np.zeros_like(down.bias))
        return replace(self, up=rest, down=down_rest, outliers=apart)


@dataclass(frozen=True, slots=True)
class BertShape:
    """The numbers of `config.json` that decide the graph's structure."""

    hidden: int
    heads: int
    layers: int
    intermediate: int
    activation: str
    epsilon: float
    position_offset: int  # RoBERTa's positions start at pad_token_id + 1
    max_positions: int  # usable ones, the offset already taken off
    vocab_size: int
    pad_token_id: int

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class BertWeights:
    """All that a BERT encoder computes with. The token type is always 0, so its row is part of `positions`.

    words: float32[vocab_size, hidden]; positions: float32[max_positions, hidden].
    """

    shape: BertShape
    words: Float32Array
    positions: Float32Array
    embedding_norm: LayerNorm
    layers: tuple[Layer, ...]


def read_shape(config: Mapping[str, Any]) -> BertShape:
    """The structure named by `config.json`. Raises UnsupportedModel or CheckpointError."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise UnsupportedModel(
            f"model_type {model_type!r} has no graph here; supported are {', '.join(MODEL_TYPES)}"
            " (MiniLM, BGE, E5, GTE, Arctic and other models of these types)"
        )
    _refuse_variants(config)
    try:
        pad_token_id = int(config.get("pad_token_id") or 0)
        offset = pad_token_id + 1 if model_type in ROBERTA_TYPES else 0
        return BertShape(
            hidden=int(config["hidden_size"]),
            heads=int(config["num_attention_heads"]),
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config["intermediate_size"]),
            activation=str(config.get("hidden_act", "gelu")),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            position_offset=offset,
            max_positions=int(config["max_position_embeddings"]) - offset,
            vocab_size=int(config["vocab_size"]),
            pad_token_id=pad_token_id,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json is not that of a {model_type} model: {error!r}") from None


def _refuse_variants(config: Mapping[str, Any]) -> None:
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UnsupportedModel(f"hidden_act {activation!r} is not supported; known are {', '.join(ACTIVATIONS)}")
    positions = config.get("position_embedding_type", "absolute")
    if positions not in ("absolute", None):
        raise UnsupportedModel(f"position_embedding_type {positions!r} is not supported; only 'absolute' is")
    if config.get("is_decoder"):
        raise UnsupportedModel("a decoder (is_decoder is true) has no graph here; only encoders have")
    hidden, heads = config.get("hidden_size", 0), config.get("num_attention_heads", 1)
    if not heads or hidden % heads:
        raise CheckpointError(f"config.json: hidden_size {hidden} does not divide into {heads} heads")


def read_weights(path: Path, shape: BertShape) -> BertWeights:
    """Read `model.safetensors`. Poolers and heads in the file are ignored.

    Raises CheckpointError naming a tensor that is missing or has another shape than `config.json` gives.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return _Reader(file, shape).weights()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None


class _Reader:
    """Finds tensors under whatever prefix the checkpoint was saved with."""

    def __init__(self, file: Any, shape: BertShape) -> None:
        self._file = file
        self._shape = shape
        self._names = set(file.keys())
        words = "embeddings.word_embeddings.weight"
        found = [prefix for prefix in PREFIXES if prefix + words in self._names]
        if not found:
            raise CheckpointError(f"the checkpoint has no tensor {words} (looked with prefixes {PREFIXES})")
        self._prefix = found[0]

    def weights(self) -> BertWeights:
        shape = self._shape
        words = self._tensor("embeddings.word_embeddings.weight", shape.vocab_size, shape.hidden)
        table = self._tensor(
            "embeddings.position_embeddings.weight", shape.max_positions + shape.position_offset, shape.hidden
        )
        positions = table[shape.position_offset :]
        if self._prefix + "embeddings.token_type_embeddings.weight" in self._names:
            types = self._tensor("embeddings.token_type_embeddings.weight", None, shape.hidden)
            positions = positions + types[0]
        layers = tuple(self._layer(f"encoder.layer.{index}") for index in range(shape.layers))
        return BertWeights(shape, words, positions, self._norm("embeddings.LayerNorm"), layers)

    def _layer(self, at: str) -> Layer:
        hidden, wide = self._shape.hidden, self._shape.intermediate
        return Layer(
            query=self._linear(f"{at}.attention.self.query", hidden, hidden),
            key=self._linear(f"{at}.attention.self.key", hidden, hidden),
            value=self._linear(f"{at}.attention.self.value", hidden, hidden),
            attention_out=self._linear(f"{at}.attention.output.dense", hidden, hidden),
            attention_norm=self._norm(f"{at}.attention.output.LayerNorm"),
            up=self._linear(f"{at}.intermediate.dense", hidden, wide),
            down=self._linear(f"{at}.output.dense", wide, hidden),
            norm=self._norm(f"{at}.output.LayerNorm"),
        )

    def _linear(self, name: str, inputs: int, outputs: int) -> Linear:
        weight = self._tensor(f"{name}.weight", outputs, inputs)
        return Linear(np.ascontiguousarray(weight.T), self._tensor(f"{name}.bias", outputs))

    def _norm(self, name: str) -> LayerNorm:
        old = f"{self._prefix}{name}.gamma" in self._names  # the first BERT checkpoints' names
        gamma, beta = ("gamma", "beta") if old else ("weight", "bias")
        hidden = self._shape.hidden
        return LayerNorm(self._tensor(f"{name}.{gamma}", hidden), self._tensor(f"{name}.{beta}", hidden))

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
