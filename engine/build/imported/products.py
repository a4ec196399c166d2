"""The linear layers of an exported graph: products of token states with constant weights; and its table of tokens."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from engine.build.graph.encoder_graph import GELU_MINIMUM
from engine.build.graph.onnx_writer import CONTRIB
from engine.build.imported.contract import IDS
from engine.build.imported.exported import PREFIX, Exported
from engine.build.running import Run
from engine.feeds import feeds
from engine.protocol import Float32Array

SMALLEST = 16  # channels on either side; what is smaller takes no time
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization")
GELUS = ("Gelu", "BiasGelu", "FastGelu")
SHAPE_OF = "shape of "
PROBES = ((3, 8), (5, 12))  # texts, tokens each: every shape must follow both

Watch = Callable[[tuple[str, ...]], Run]


@dataclass(frozen=True, slots=True)
class Product:
    """`x @ weight`, float32[K, N], and for a Gemm an addend's name; `output` is the node's."""

    name: str
    output: str
    x: str
    weight: Float32Array
    addend: str = ""


@dataclass(slots=True)
class Site:
    """An input of linear layers, float32[B, S, K], or [B * S, K] where `is_flat`.

    after_norm: it comes out of a LayerNorm. lowest: no element is ever below it, because it comes out of a GELU.
    """

    name: str
    x: str
    is_flat: bool
    after_norm: bool
    lowest: float | None
    products: list[Product] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """K."""
        return len(self.products[0].weight)

    @property
    def is_narrowing(self) -> bool:
        """Whether all its products have fewer outputs than inputs, as the second layer of a feed-forward block."""
        return all(product.weight.shape[1] < self.channels for product in self.products)


@dataclass(frozen=True, slots=True)
class Sites:
    """By the output of a node: its product and site, or the table it looks tokens up in. left: products that are not
    of token states, by name."""

    products: Mapping[str, tuple[Site, Product]]
    tables: Mapping[str, Float32Array]
    left: tuple[str, ...]

    def all(self) -> list[Site]:
        """Each site once, in the graph's order."""
        return list({site.name: site for site, _ in self.products.values()}.values())


def find_sites(exported: Exported, vocab_size: int, watch: Watch) -> Sites:
    """The linear layers over tokens. `watch`: opens the graph with the shapes of the values named as outputs."""
    candidates = list(_candidates(exported))
    layouts = _layouts(tuple(dict.fromkeys(product.x for product in candidates)), watch)
    sites: dict[str, Site] = {}
    products = {}
    for product in candidates:
        if (is_flat := layouts.get(product.x)) is None:
            continue
        if product.x not in sites:
            lowest = GELU_MINIMUM if _is_gelu(exported, product.x) else None
            name = f"linear.{len(sites)}"
            sites[product.x] = Site(name, product.x, is_flat, _after_norm(exported, product.x), lowest)
        sites[product.x].products.append(product)
        products[product.output] = (sites[product.x], product)
    left = tuple(product.name for product in candidates if product.output not in products)
    return Sites(products, dict(_tables(exported, vocab_size)), left)


def _candidates(exported: Exported) -> Iterator[Product]:
    for node in exported.nodes:
        if node.op_type not in ("MatMul", "Gemm") or node.domain or exported.constant(node.input[0]) is not None:
            continue
        weight = exported.constant(node.input[1])
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            continue
        addend = ""
        if node.op_type == "Gemm":
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if attributes.get("transA", 0) or {attributes.get(name, 1.0) for name in ("alpha", "beta")} != {1.0}:
                continue
            weight = weight.T if attributes.get("transB", 0) else weight
            addend = node.input[2] if len(node.input) > 2 else ""
        if min(weight.shape) >= SMALLEST:
            yield Product(node.output[0].removeprefix(PREFIX), node.output[0], node.input[0], weight, addend)


def _layouts(names: tuple[str, ...], watch: Watch) -> dict[str, bool]:
    """Of the values that hold one row for each padded place, whether they have two dimensions instead of three."""
    if not names:
        return {}
    run = watch(names)
    found: dict[str, set[bool | None]] = {name: set() for name in names}
    for texts, tokens in PROBES:
        ids = np.resize(np.arange(2, 7, dtype=np.int32), tokens)
        outputs = run(feeds([ids] * texts))
        for name in names:
            shape = tuple(outputs[f"{SHAPE_OF}{name}"].tolist())
            is_padded, is_flat = shape[:-1] == (texts, tokens), shape[:-1] == (texts * tokens,)
            found[name].add(is_flat if is_padded or is_flat else None)
    return {name: kinds.pop() for name, kinds in found.items() if kinds in ({True}, {False})}  # type: ignore[misc]


def _after_norm(exported: Exported, name: str) -> bool:
    """Whether a value is a LayerNorm's, written as one operator or as gamma * (x / deviation) + beta."""
    node = exported.producers.get(name)
    while node is not None and node.op_type in ("Identity", "Cast", "Reshape"):
        node = exported.producers.get(node.input[0])
    if node is None:
        return False
    if node.op_type in NORMS and node.domain in ("", CONTRIB):
        return True
    scaled = _beside_constant(exported, node, "Add")
    normed = None if scaled is None else _beside_constant(exported, scaled, "Mul")
    return normed is not None and normed.op_type == "Div"


def _is_gelu(exported: Exported, name: str) -> bool:
    """Whether a value is a GELU's, as one operator or as x * (erf(x / c) + 1) * 0.5 in any order."""
    node = exported.producers.get(name)
    if node is None or node.op_type in GELUS:
        return node is not None
    factors = list(_factors(exported, name))
    for x, other in (factors, factors[::-1]) if len(factors) == 2 else ():
        added = exported.producers.get(other)
        erf = None if added is None else _beside_constant(exported, added, "Add")
        scaled = exported.producers.get(erf.input[0]) if erf is not None and erf.op_type == "Erf" else None
        if scaled is not None and scaled.op_type in ("Div", "Mul") and x in scaled.input:
            return True
    return False


def _factors(exported: Exported, name: str) -> Iterator[str]:
    """What is multiplied to make a value, constants left out."""
    node = exported.producers.get(name)
    if node is None or node.op_type != "Mul":
        yield name
        return
    for factor in node.input:
        if exported.constant(factor) is None:
            yield from _factors(exported, factor)


def _beside_constant(exported: Exported, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
    """What is added to or multiplied by a constant in `node`; None where that is not what the node does."""
    if node.op_type != kind or len(node.input) != 2:
        return None
    varying = [name for name in node.input if exported.constant(name) is None]
    return exported.producers.get(varying[0]) if len(varying) == 1 else None


def _tables(exported: Exported, vocab_size: int) -> Iterator[tuple[str, Float32Array]]:
    """Look-ups of token ids in float32[at least vocab_size, H]."""
    for node in exported.nodes:
        if node.op_type != "Gather" or node.domain or any(a.name == "axis" and a.i for a in node.attribute):
            continue
        ids, table = node.input[1], exported.constant(node.input[0])
        while (before := exported.producers.get(ids)) is not None and before.op_type in ("Cast", "Identity"):
            ids = before.input[0]
        if ids != f"{PREFIX}{IDS}" or table is None or table.ndim != 2 or table.dtype != np.float32:
            continue
        if len(table) >= vocab_size and table.shape[1] >= SMALLEST:
            yield node.output[0], table
