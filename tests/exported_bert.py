"""A BERT as exporters write it: an ONNX graph on padded int64 inputs, with norms and GELU in basic operators."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def export(
    tensors: dict[str, np.ndarray],
    config: dict[str, Any],
    path: Path,
    *,
    opset: int = 14,
    external: str = "",
    sentence_embedding: bool = False,
    masked: bool = True,
    output: str = "last_hidden_state",
    token_types: bool = True,
    pads_first: bool = False,
) -> onnx.ModelProto:
    """Write the graph of a BERT's `tensors` to `path`, as torch's exporter does at that opset.

    external: a file's name for the weights. output: the token states' name; empty for none. sentence_embedding: an
    output with mean pooling, normalised.
    masked: False makes attention see padding, a fault that makes vectors depend on their batch.
    token_types: False takes the first type's row without an input, as graphs of models without types do.
    pads_first: positions are counted from the padding token's on and over tokens that are not padding, as in RoBERTa.
    """
    model = _Graph(tensors, config, opset, masked, token_types, pads_first).model(output, sentence_embedding)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location=external, size_threshold=256, all_tensors_to_one_file=True
        )
    else:
        onnx.save_model(model, path)
    return onnx.load(path, load_external_data=False)


class _Graph:
    def __init__(
        self,
        tensors: dict[str, np.ndarray],
        config: dict[str, Any],
        opset: int,
        masked: bool,
        token_types: bool,
        pads_first: bool,
    ) -> None:
        self._token_types = token_types
        self._pads_first = pads_first
        self._tensors = tensors
        self._config = config
        self._opset = opset
        self._masked = masked
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}

    def model(self, output: str, sentence_embedding: bool) -> onnx.ModelProto:
        state = self._encoder()
        outputs = []
        if output:
            self._nodes.append(helper.make_node("Identity", [state], [output]))
            outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "sequence", "hidden"])]
        if sentence_embedding:
            self._nodes.append(helper.make_node("Identity", [self._pooled(state)], ["sentence_embedding"]))
            vectors = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", "hidden"])
            outputs = [*outputs, vectors] if output else [vectors]
        names = ("input_ids", "attention_mask", "token_type_ids")[: 3 if self._token_types else 2]
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names]
        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, "main_graph", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=7)
        onnx.checker.check_model(model)
        return model

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [f"{name}_output_0"], name=name, **attributes))
        return f"{name}_output_0"

    def _constant(self, value: Any, dtype: type = np.float32, name: str = "") -> str:
        array: np.ndarray = np.array(value, dtype=dtype)
        name = name or f"onnx::constant_{len(self._constants)}"
        self._constants[name] = array
        return name

    def _weight(self, name: str) -> str:
        return self._constant(self._tensors[name], name=name)

    def _unsqueeze(self, x: str, *axes: int) -> str:
        if self._opset < 13:
            return self._op("Unsqueeze", x, axes=axes)
        return self._op("Unsqueeze", x, self._constant(axes, np.int64))

    def _mean(self, x: str) -> str:
        if self._opset < 18:
            return self._op("ReduceMean", x, axes=[-1], keepdims=1)
        return self._op("ReduceMean", x, self._constant([-1], np.int64), keepdims=1)

    def _linear(self, x: str, name: str) -> str:
        weight = self._constant(self._tensors[f"{name}.weight"].T, name=f"onnx::MatMul_{name}")
        return self._op("Add", self._op("MatMul", x, weight), self._weight(f"{name}.bias"))

    def _norm(self, x: str, name: str) -> str:
        gamma, beta = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        if self._opset >= 17:
            return self._op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=self._config["layer_norm_eps"])
        centred = self._op("Sub", x, self._mean(x))
        variance = self._mean(self._op("Pow", centred, self._constant(2.0)))
        deviation = self._op("Sqrt", self._op("Add", variance, self._constant(self._config["layer_norm_eps"])))
        return self._op("Add", self._op("Mul", self._op("Div", centred, deviation), gamma), beta)

    def _gelu(self, x: str) -> str:
        if self._opset >= 20:
            return self._op("Gelu", x)
        erf = self._op("Erf", self._op("Div", x, self._constant(math.sqrt(2))))
        return self._op("Mul", self._op("Mul", x, self._op("Add", erf, self._constant(1.0))), self._constant(0.5))

    def _heads(self, x: str, name: str, order: list[int]) -> str:
        heads = self._config["num_attention_heads"]
        shape = [0, 0, heads, self._config["hidden_size"] // heads]
        split = self._op("Reshape", self._linear(x, name), self._constant(shape, np.int64))
        return self._op("Transpose", split, perm=order)

    def _encoder(self) -> str:
        at = "embeddings"
        words = self._op("Gather", self._weight(f"{at}.word_embeddings.weight"), "input_ids")
        if self._token_types:
            types = self._op("Gather", self._weight(f"{at}.token_type_embeddings.weight"), "token_type_ids")
        else:
            types = self._constant(self._tensors[f"{at}.token_type_embeddings.weight"][0])
        positions = self._places_after_padding() if self._pads_first else self._places()
        positions = self._op("Gather", self._weight(f"{at}.position_embeddings.weight"), positions)
        x = self._norm(self._op("Add", self._op("Add", words, types), positions), f"{at}.LayerNorm")
        mask = self._op("Cast", self._unsqueeze("attention_mask", 1, 2), to=TensorProto.FLOAT)
        lowest = self._constant(np.finfo(np.float32).min if self._masked else 0.0)
        mask = self._op("Mul", self._op("Sub", self._constant(1.0), mask), lowest)
        for layer in range(self._config["num_hidden_layers"]):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        return x

    def _places(self) -> str:
        length = self._op("Gather", self._op("Shape", "input_ids"), self._constant(1, np.int64), axis=0)
        places = self._constant(np.arange(self._config["max_position_embeddings"])[None], np.int64)
        zero, end, axis = self._constant([0], np.int64), self._unsqueeze(length, 0), self._constant([1], np.int64)
        return self._op("Slice", places, zero, end, axis)

    def _places_after_padding(self) -> str:
        pad = self._constant(self._config["pad_token_id"], np.int64)
        is_text = self._op("Cast", self._op("Not", self._op("Equal", "input_ids", pad)), to=TensorProto.INT64)
        counted = self._op("CumSum", is_text, self._constant(1, np.int64))
        return self._op("Add", self._op("Mul", counted, is_text), pad)

    def _layer(self, x: str, mask: str, at: str) -> str:
        hidden = self._config["hidden_size"]
        query = self._heads(x, f"{at}.attention.self.query", [0, 2, 1, 3])
        key = self._heads(x, f"{at}.attention.self.key", [0, 2, 3, 1])
        value = self._heads(x, f"{at}.attention.self.value", [0, 2, 1, 3])
        root = math.sqrt(hidden // self._config["num_attention_heads"])
        scores = self._op("Div", self._op("MatMul", query, key), self._constant(root))
        shares = self._op("Softmax", self._op("Add", scores, mask), axis=3)
        context = self._op("Transpose", self._op("MatMul", shares, value), perm=[0, 2, 1, 3])
        context = self._op("Reshape", context, self._constant([0, 0, hidden], np.int64))
        x = self._norm(
            self._op("Add", self._linear(context, f"{at}.attention.output.dense"), x),
            f"{at}.attention.output.LayerNorm",
        )
        wide = self._gelu(self._linear(x, f"{at}.intermediate.dense"))
        return self._norm(self._op("Add", self._linear(wide, f"{at}.output.dense"), x), f"{at}.output.LayerNorm")

    def _pooled(self, state: str) -> str:
        mask = self._op("Cast", self._unsqueeze("attention_mask", 2), to=TensorProto.FLOAT)
        sums = self._op("MatMul", self._op("Transpose", mask, perm=[0, 2, 1]), state)
        sums = self._op("Reshape", sums, self._constant([-1, self._config["hidden_size"]], np.int64))
        norms = self._op("ReduceL2", sums, axes=[-1], keepdims=1)
        return self._op("Div", sums, norms)
