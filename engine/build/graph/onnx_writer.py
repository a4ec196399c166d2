"""Writing an ONNX graph node by node: `GraphWriter` collects nodes and constants and gives the checked model.

Names are counted, not random, and nothing depends on the time or on hash order: the same calls give the same bytes.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 21
CONTRIB = "com.microsoft"  # operators ONNX Runtime ships beyond the standard
CONTRIB_VERSION = 1
IR_VERSION = 10  # the newest that opset 21's runtimes read

Array: TypeAlias = npt.NDArray[Any]
Int8Array: TypeAlias = npt.NDArray[np.int8]


class GraphWriter:
    """Collects nodes, constants, inputs and outputs; `model()` checks and returns the ModelProto."""

    def __init__(self, name: str, outer: "GraphWriter | None" = None) -> None:
        """`outer`: the graph that this one is the body of; it keeps the constants of both."""
        self._name = name
        self.is_body = outer is not None
        self._names = "" if outer is None else f"{name}_"  # before the names of values: unique among all graphs
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {} if outer is None else outer._constants
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: type[np.generic], shape: list[int | str]) -> str:
        """Declare a graph input; a string in `shape` is a free dimension."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: type[np.generic], shape: list[int | str]) -> None:
        """Make `value` the graph output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(_value_info(name, dtype, shape))

    def constant(self, name: str, value: Array) -> str:
        """An initializer. The same name may be given again only with the same value."""
        known = self._constants.get(name)
        assert known is None or (known.dtype == value.dtype and np.array_equal(known, value)), f"{name} has two values"
        self._constants[name] = np.asarray(value, order="C")
        return name

    def number(self, value: float) -> str:
        """A float32 scalar constant."""
        return self.constant(f"float_{value!r}", np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """An int64[n] constant: axes and shapes."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name. An empty input name is an absent input."""
        output = f"{self._names}{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def cast(self, value: str, dtype: type[np.generic]) -> str:
        """`value` as another type."""
        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def loop(self, count: str, body: Callable[["GraphWriter", str], str]) -> str:
        """Run `body` `count` (int64) times and stack its float32 results along a new first axis.

        `body` writes its nodes with the writer it is given, from the index, int64, and any value of this graph; all
        its results have the same shape.
        """
        name = f"{self._names}Loop_{len(self._nodes)}"
        inner = GraphWriter(name, outer=self)
        index, given, kept = f"{name}_index", f"{name}_given", f"{name}_kept"
        result = body(inner, index)
        inner._nodes.append(helper.make_node("Identity", [given], [kept]))
        graph = helper.make_graph(
            inner._nodes,
            name,
            [_value_info(index, np.int64, []), _value_info(given, np.bool_, [])],
            [_value_info(kept, np.bool_, []), helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)],
        )
        self._nodes.append(helper.make_node("Loop", [count, ""], [name], name=name, body=graph))
        return name

    def model(self) -> onnx.ModelProto:
        """The finished model, with its structure checked."""
        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, CONTRIB_VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="dejavec")
        onnx.checker.check_model(model)
        return model


def _value_info(name: str, dtype: type[np.generic], shape: list[int | str]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
