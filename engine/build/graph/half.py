"""The FP32 graph with its encoder in FP16, for GPUs.

What is up to the last LayerNormalization gets FP16 constants and values. Kept in FP32, where rounding would hurt:
- softmax, between two casts. (A CPU has no FP16 softmax: ONNX Runtime would take it apart into a ReduceSum and more,
  whose bytes depend on the batch; see `encoder_graph`.)
- the mean and variance of a LayerNormalization, by the operator's definition (`stash_type`)
- pooling, normalisation and the embeddings that come out
- the sums inside products, on CUDA as on a CPU

Every operator has a CUDA kernel for the types it gets here; a test keeps the list. On a CPU, ONNX Runtime computes in
FP32 between casts: right, as quick as FP32 and much slower than INT8.

Cosine to FP32 of MiniLM-L6 over 62 texts, mean / min: 1.000000 / 0.999999 on a CPU; 0.999999 / 0.999998 with every
operator's output rounded to FP16, which is what a GPU does.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.build.errors import UnsupportedModel
from engine.build.graph.onnx_writer import Array

ENCODER_END = "LayerNormalization"
FP32_OPERATORS = ("Softmax",)
HALF_SUFFIX = ".half"
LARGEST_HALF = float(np.finfo(np.float16).max)
LARGEST_SCALAR = 30_000.0  # a mask's -1e9 becomes this: its weight is still 0, and adding a score cannot overflow


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, FP32 with integer inputs, with its encoder in FP16; inputs and outputs stay what they are.

    Raises UnsupportedModel when no LayerNormalization ends the encoder, or when a weight is too large for FP16.
    """
    graph = model.graph
    end = next((node for node in reversed(graph.node) if node.op_type == ENCODER_END), None)
    if end is None:
        raise UnsupportedModel(f"without a {ENCODER_END} it is unknown where FP16 may end; build int8 or fp32")
    inside = _upstream(graph.node, end)
    encoder = [node for node in graph.node if node.output[0] in inside]
    head = [node for node in graph.node if node.output[0] not in inside]
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves = floats & _inputs(encoder)

    widened = f"{end.output[0]}_fp32"
    renamed = {name: name + HALF_SUFFIX for name in halves}
    nodes = [half for node in encoder for half in _halved(node, renamed)]
    nodes.append(_cast(end.output[0], widened, TensorProto.FLOAT))
    nodes += [_renamed(node, {end.output[0]: widened}) for node in head]
    constants = [_half(tensor) for tensor in graph.initializer if tensor.name in halves]
    constants += [tensor for tensor in graph.initializer if tensor.name not in halves - _inputs(head)]
    result = helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
    )
    onnx.checker.check_model(result)
    return result


def _upstream(nodes: Iterable[onnx.NodeProto], end: onnx.NodeProto) -> set[str]:
    """Names of all values that `end` and the nodes it depends on give."""
    makers = {output: node for node in nodes for output in node.output}
    found: set[str] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node.output[0] not in found:
            found.update(node.output)
            waiting += [makers[name] for name in node.input if name in makers]
    return found


def _inputs(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}


def _halved(node: onnx.NodeProto, names: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The node on FP16 values; an operator that stays FP32 has a cast on either side."""
    copy = _renamed(node, names)
    if node.op_type in FP32_OPERATORS:
        given, made = copy.input[0], copy.output[0]
        copy.input[0], copy.output[0], copy.name = f"{made}_given", f"{made}_fp32", f"{made}_fp32"
        return [_cast(given, copy.input[0], TensorProto.FLOAT), copy, _cast(copy.output[0], made, TensorProto.FLOAT16)]
    for attribute in copy.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    return [copy]


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of the node that takes its inputs under their new names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    return copy


def _cast(given: str, made: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], name=made, to=to)


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    value: Array = numpy_helper.to_array(tensor)
    if value.ndim == 0:
        value = np.clip(value, -LARGEST_SCALAR, LARGEST_SCALAR)
    largest = float(np.abs(value).max(initial=0.0))
    if largest > LARGEST_HALF:
        raise UnsupportedModel(f"{tensor.name} holds {largest:g}, too large for FP16; build int8 or fp32")
    return numpy_helper.from_array(value.astype(np.float16), tensor.name + HALF_SUFFIX)
