"""What an exported graph must be to be imported: operators, weights, inputs, outputs. Refusals name what was found."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from engine.build.errors import UnsupportedModel
from engine.build.graph.onnx_writer import CONTRIB

LEAST_OPSET = 7
STANDARD_DOMAINS = ("", "ai.onnx")
DOMAINS = (*STANDARD_DOMAINS, CONTRIB)  # those whose operators ONNX Runtime has by itself
QUANTIZED = ("Quantize", "Dequantize", "QLinear", "MatMulInteger", "ConvInteger", "QAttention", "QGemm", "MatMulNBits")
RANDOM = ("Random", "Bernoulli", "Multinomial")
IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
INPUTS = (IDS, MASK, TYPES, POSITIONS)
TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")  # float32[B, S, H]
TEXT_OUTPUTS = ("sentence_embedding", "sentence_embeddings")  # float32[B, dimensions]
INTEGERS: dict[int, type[np.integer[Any]]] = {TensorProto.INT64: np.int64, TensorProto.INT32: np.int32}


@dataclass(frozen=True, slots=True)
class Contract:
    """What is used of a graph. inputs: the names it takes and their types; tokens, text: its outputs, or None."""

    inputs: Mapping[str, int]
    tokens: str | None
    text: str | None


def read_contract(model: onnx.ModelProto, opset: int) -> Contract:
    """Check a graph. Raises UnsupportedModel with every name that has no place here."""
    if opset < LEAST_OPSET:
        raise UnsupportedModel(f"the graph has opset {opset}; opsets from {LEAST_OPSET} on can be imported")
    nodes = list(all_nodes(model.graph.node))
    nodes += [node for function in model.functions for node in all_nodes(function.node)]
    local = {function.domain for function in model.functions}
    _refuse_operators(nodes, local)
    _refuse_tensors(model, nodes)
    return Contract(_inputs(model.graph), _output(model.graph, TOKEN_OUTPUTS, 3), _text_output(model.graph))


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs within them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.type == AttributeProto.GRAPH else ())):
                yield from all_nodes(graph.node)


def _refuse_operators(nodes: Iterable[onnx.NodeProto], local: set[str]) -> None:
    custom, quantized, random = set[str](), set[str](), set[str]()
    for node in nodes:
        if node.domain not in DOMAINS and node.domain not in local:
            custom.add(f"{node.domain}::{node.op_type}")
        if any(word in node.op_type for word in QUANTIZED):
            quantized.add(node.op_type)
        if node.op_type.startswith(RANDOM):
            random.add(node.op_type)
    if custom:
        raise UnsupportedModel(
            f"the graph needs operators that ONNX Runtime does not have: {', '.join(sorted(custom))}; code that comes"
            " with a model is never loaded"
        )
    if quantized:
        raise UnsupportedModel(
            f"the graph is quantised already ({', '.join(sorted(quantized))}); import its FP32 form, model.onnx"
        )
    if random:
        raise UnsupportedModel(f"the graph has random operators ({', '.join(sorted(random))}): no vector comes twice")


def _refuse_tensors(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Weights of half precision, and any that would still have to be read from another file."""
    tensors = list(model.graph.initializer)
    for node in nodes:
        for attribute in node.attribute:
            tensors += [attribute.t] if attribute.type == AttributeProto.TENSOR else attribute.tensors
            for graph in (*attribute.graphs, *([attribute.g] if attribute.type == AttributeProto.GRAPH else ())):
                tensors += graph.initializer
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise UnsupportedModel(f"{tensor.name!r} is external data within a node; only weights of the graph may be")
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise UnsupportedModel(f"the weight {tensor.name!r} has half precision; import the FP32 form, model.onnx")


def _inputs(graph: onnx.GraphProto) -> dict[str, int]:
    constants = {tensor.name for tensor in graph.initializer}
    given = {value.name: value.type.tensor_type for value in graph.input if value.name not in constants}
    if unknown := sorted(given.keys() - set(INPUTS)):
        raise UnsupportedModel(f"the graph takes {', '.join(unknown)}; supported inputs are {', '.join(INPUTS)}")
    if IDS not in given:
        raise UnsupportedModel(f"the graph does not take {IDS}, it takes {', '.join(sorted(given)) or 'nothing'}")
    for name, kind in given.items():
        if kind.elem_type not in INTEGERS or len(kind.shape.dim) != 2:
            raise UnsupportedModel(f"the graph's input {name} is not int64 or int32 with the shape [texts, tokens]")
        if any(size.HasField("dim_value") for size in kind.shape.dim):
            raise UnsupportedModel(f"the graph's input {name} has a fixed size; export it with free dimensions")
    return {name: kind.elem_type for name, kind in given.items()}


def _output(graph: onnx.GraphProto, names: Iterable[str], rank: int) -> str | None:
    """The first of `names` that the graph gives, as float32 of that rank (where the rank is declared)."""
    outputs = {value.name: value.type.tensor_type for value in graph.output}
    for name in names:
        if name not in outputs:
            continue
        kind = outputs[name]
        if kind.elem_type == TensorProto.FLOAT and (not kind.HasField("shape") or len(kind.shape.dim) == rank):
            return name
        raise UnsupportedModel(f"the graph's output {name} is not float32 with {rank} dimensions")
    return None


def _text_output(graph: onnx.GraphProto) -> str | None:
    found = _output(graph, TEXT_OUTPUTS, 2)
    if found is None and _output(graph, TOKEN_OUTPUTS, 3) is None:
        given = ", ".join(value.name for value in graph.output)
        raise UnsupportedModel(f"the graph gives {given}; one of {', '.join(TOKEN_OUTPUTS + TEXT_OUTPUTS)} is needed")
    return found
