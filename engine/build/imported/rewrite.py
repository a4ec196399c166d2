"""Writes a bundle's graph around an exported one: the engine's inputs before it, pooling and normalisation after it.

The exported graph computes on padded texts, [B, S]; the engine gives packed tokens and where they lie (`engine.feeds`).
A linear layer's product is taken over the packed tokens alone, so that neither padding nor the number of texts reaches
it, and its result padded again. What it reads at a padded place is then the text's own first token's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from engine.build.graph.head import Head, write_head
from engine.build.graph.inputs import Inputs
from engine.build.graph.linears import Linears, Prepared
from engine.build.graph.onnx_writer import Array, GraphWriter
from engine.build.imported.contract import IDS, INTEGERS, MASK, POSITIONS, TYPES
from engine.build.imported.exported import PREFIX, Exported, reachable
from engine.build.imported.products import SHAPE_OF, Product, Site, Sites
from engine.protocol import Float32Array

Outliers = Mapping[str, npt.NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Layers:
    """How the products of `sites` are written; a site's `outliers` are channels that stay in float32."""

    linears: Linears
    sites: Sites
    outliers: Outliers


def write_imported(
    exported: Exported,
    pad_token_id: int,
    head: Head | None = None,
    layers: Layers | None = None,
    watched: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """The graph from the engine's inputs to `embeddings`, float32[B, dimensions].

    head: what makes vectors of token states; None leaves them as they are, float32[T, H]. A graph that gives vectors
    has no head. layers: None leaves every product as it came. watched: values whose shapes are outputs as well, int64
    under SHAPE_OF and the value's name.
    """
    graph = _Writer("imported")
    inputs = Inputs.declare(graph)
    _write_inputs(graph, inputs, exported, pad_token_id)
    for name, tensor in exported.constants.items():
        graph.constant(name, onnx.numpy_helper.to_array(tensor))
    products = _Products(graph, inputs, layers) if layers is not None else None
    for node in exported.nodes:
        if products is None or not products.write(node):
            graph.node(node)
    for name in watched:
        graph.output(graph.op("Shape", name), f"{SHAPE_OF}{name}", np.int64, ["rank"])
    value = exported.output
    if exported.gives_tokens:
        value = _pack(graph, value, inputs)
        value = value if head is None else write_head(graph, value, inputs, head)
    graph.output(value, "embeddings", np.float32, ["texts", "dimensions"])
    return graph.model()


class _Writer(GraphWriter):
    """Takes nodes as they are, besides its own; writes only what its outputs need."""

    def node(self, node: onnx.NodeProto) -> None:
        """Add a node with its names."""
        self._nodes.append(node)

    def name(self, value: str, name: str) -> None:
        """Call a value `name` as well."""
        self._nodes.append(onnx.helper.make_node("Identity", [value], [name]))

    def model(self) -> onnx.ModelProto:
        """The finished model without what no output needs."""
        self._nodes, needed = reachable(self._nodes, [value.name for value in self._outputs])
        for name in self._constants.keys() - needed:
            del self._constants[name]
        return super().model()


def _write_inputs(graph: _Writer, inputs: Inputs, exported: Exported, pad_token_id: int) -> None:
    """The padded inputs that exporters give a graph, each in its own integer type."""
    values = {
        IDS: lambda: graph.op(
            "Where",
            graph.cast(inputs.attention_mask, np.bool_),
            graph.op("Gather", inputs.input_ids, inputs.rows),
            graph.constant("pad_token_id", np.array(pad_token_id, dtype=np.int32)),
        ),
        MASK: lambda: inputs.attention_mask,
        TYPES: lambda: graph.op(
            "Expand", graph.constant("zero", np.array(0, dtype=np.int32)), graph.op("Shape", inputs.rows)
        ),
        POSITIONS: lambda: graph.op("Gather", inputs.position_ids, inputs.rows),
    }
    for name, kind in exported.contract.inputs.items():
        graph.name(graph.cast(values[name](), INTEGERS[kind]), f"{PREFIX}{name}")


def _pack(graph: GraphWriter, padded: str, inputs: Inputs) -> str:
    """[B, S, K] or [B * S, K] -> [T, K]."""
    channels = graph.op("Shape", padded, start=-1)
    rows = graph.op("Reshape", padded, graph.op("Concat", graph.integers(-1), channels, axis=0))
    return graph.op("Gather", rows, inputs.slots)


class _Products:
    """Writes linear layers over packed tokens; an input of several is packed and prepared once."""

    def __init__(self, graph: _Writer, inputs: Inputs, layers: Layers) -> None:
        self._graph = graph
        self._inputs = inputs
        self._layers = layers
        self._packed: dict[str, str] = {}
        self._prepared: dict[str, Prepared] = {}

    def write(self, node: onnx.NodeProto) -> bool:
        """Write `node` in the layers' way; False where it is not one of their products, and nothing is written."""
        sites, linears, graph = self._layers.sites, self._layers.linears, self._graph
        if (table := sites.tables.get(node.output[0])) is not None:
            graph.name(linears.look_up(graph, f"{node.output[0]}.table", table, node.input[1]), node.output[0])
            return True
        if (found := sites.products.get(node.output[0])) is None:
            return False
        site, product = found
        value = self._multiply(site, product)
        rows = graph.op("Reshape", self._inputs.rows, graph.integers(-1)) if site.is_flat else self._inputs.rows
        padded = graph.op("Gather", value, rows)
        if product.addend:
            padded = graph.op("Add", padded, product.addend)
        graph.name(padded, product.output)
        return True

    def _multiply(self, site: Site, product: Product) -> str:
        """float32[T, N]."""
        graph, linears = self._graph, self._layers.linears
        if site.name not in self._packed:
            self._packed[site.name] = _pack(graph, site.x, self._inputs)
        packed, outliers = self._packed[site.name], self._layers.outliers.get(site.name)
        if site.name not in self._prepared:
            rest = self._without(packed, outliers, site)
            self._prepared[site.name] = linears.prepare(graph, rest, site.name, site.lowest)
        weight = np.ascontiguousarray(product.weight, np.float32)
        if outliers is None:
            return linears.multiply(graph, self._prepared[site.name], site.name, product.name, weight, None)
        others: Float32Array = weight.copy()
        others[outliers] = 0
        value = linears.multiply(graph, self._prepared[site.name], site.name, product.name, others, None)
        places = graph.constant(f"{site.name}.outliers", outliers.astype(np.int64))
        channels = graph.op("Gather", packed, places, axis=1)
        kept = graph.constant(f"{site.name}.{product.name}.outliers", weight[outliers])
        return graph.op("Add", value, graph.op("MatMul", channels, kept))

    def _without(self, packed: str, outliers: Array | None, site: Site) -> str:
        if outliers is None:
            return packed
        kept = np.ones(site.channels, np.float32)
        kept[outliers] = 0
        return self._graph.op("Mul", packed, self._graph.constant(f"{site.name}.kept", kept))
