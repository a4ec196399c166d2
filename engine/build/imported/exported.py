"""An exported graph made ready to be built on: what is not needed is gone, opset and names are as in our own graphs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, compose, helper, inliner, numpy_helper, version_converter

from engine.build.errors import UnsupportedModel
from engine.build.graph.onnx_writer import OPSET, Array
from engine.build.imported.contract import STANDARD_DOMAINS, Contract
from engine.build.imported.source import Source

PREFIX = "exported/"  # of every name, so that none meets one of ours
LARGE_WEIGHT = 4096  # numbers; smaller constants may be axes and shapes, which decide how a node is converted


@dataclass(frozen=True)
class Exported:
    """Nodes in an order that can be computed, all with OPSET's meaning; names begin with PREFIX.

    output: token states float32[B, S, H] where `gives_tokens`, else vectors float32[B, dimensions].
    """

    nodes: Sequence[onnx.NodeProto]
    constants: dict[str, TensorProto]
    contract: Contract
    output: str
    gives_tokens: bool

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Each value's node."""
        return {name: node for node in self.nodes for name in node.output}

    def constant(self, name: str) -> Array | None:
        """The value of a constant: a weight, a Constant node, or one of them under another name or transposed."""
        if (tensor := self.constants.get(name)) is not None:
            return numpy_helper.to_array(tensor)
        node = self.producers.get(name)
        if node is None or node.domain not in STANDARD_DOMAINS:
            return None
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            return numpy_helper.to_array(attributes["value"].t)
        if node.op_type in ("Identity", "Transpose"):
            value = self.constant(node.input[0])
            if value is None or node.op_type == "Identity":
                return value
            return np.transpose(value, list(attributes["perm"].ints) if "perm" in attributes else None)
        return None


def prepare(source: Source, contract: Contract, *, text_output: bool = False) -> Exported:
    """The part of a graph that makes its token states, or its texts' vectors where it has no other output or
    `text_output` asks for them. Raises UnsupportedModel when an operator cannot be brought to OPSET.
    """
    model = inliner.inline_local_functions(source.model) if source.model.functions else source.model
    gives_tokens = contract.tokens is not None and not text_output
    output = contract.tokens if gives_tokens else contract.text
    assert output is not None, "the contract has one of the two"
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, needed = reachable(model.graph.node, [output])
    weights = {name: tensor for name, tensor in weights.items() if name in needed}
    large = {name for name, tensor in weights.items() if int(np.prod(tensor.dims)) > LARGE_WEIGHT}
    upgraded = _upgrade(_small_model(model, contract, nodes, weights, large, output))
    graph = compose.add_prefix(upgraded, PREFIX).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {f"{PREFIX}{name}": weights[name] for name in large}
    for node in graph.node:
        node.domain = "" if node.domain in STANDARD_DOMAINS else node.domain
    return Exported(list(graph.node), constants, contract, f"{PREFIX}{output}", gives_tokens)


def reachable(
    nodes: Iterable[onnx.NodeProto], outputs: Iterable[str], read: Callable[[onnx.NodeProto], set[str]] | None = None
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that `outputs` need, in their order, and all names that they read."""
    read = read or names_read
    needed, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if needed & set(node.output):
            kept.append(node)
            needed |= read(node)
    return kept[::-1], needed


def names_read(node: onnx.NodeProto) -> set[str]:
    """The names a node reads, those of the graphs within it among them."""
    names = set(node.input) - {""}
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.type == AttributeProto.GRAPH else ())):
            names |= {value.name for value in graph.output}
            for inner in graph.node:
                names |= names_read(inner)
    return names


def _small_model(
    model: onnx.ModelProto,
    contract: Contract,
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, TensorProto],
    large: set[str],
    output: str,
) -> onnx.ModelProto:
    """The graph with its large weights as inputs: converting copies a graph several times."""
    inputs = [value for value in model.graph.input if value.name in contract.inputs]
    inputs += [helper.make_tensor_value_info(name, weights[name].data_type, weights[name].dims) for name in large]
    outputs = [value for value in model.graph.output if value.name == output]
    small = [tensor for name, tensor in weights.items() if name not in large]
    graph = helper.make_graph(nodes, model.graph.name or "exported", inputs, outputs, small)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    if opset == OPSET:
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(converted)
    except (RuntimeError, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedModel(f"the graph cannot be converted from opset {opset} to {OPSET}: {reason}") from None
    return converted
