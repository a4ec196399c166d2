"""The graph's INT8 products alone: the same operators, weights, activations and results as in the whole graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.model.cpu_session import open_cpu_session
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.products import (
    ProductsTask,
    activations_of,
    compute_activations,
    drive,
    products_alone,
)

ROWS, WIDTH = 5, 8


def a_model() -> onnx.ModelProto:
    """input_ids [batch, length] to float, quantised twice, each multiplied by a weight of its own."""
    rng = np.random.default_rng(0)
    weights = [rng.integers(-20, 20, shape, dtype=np.int8) for shape in ((WIDTH, 6), (WIDTH, 4))]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["ids", "small"], ["floats"]),
        helper.make_node("QuantizeLinear", ["floats", "one", "zero"], ["a"]),
        helper.make_node("MatMulInteger", ["a", "w0"], ["p0"]),
        helper.make_node("MatMulInteger", ["a", "w1"], ["p1"]),
        helper.make_node("Identity", ["attention_mask"], ["kept"]),
        helper.make_node("Identity", ["p0"], ["y"]),
    ]
    constants = {"w0": weights[0], "w1": weights[1], "zero": np.array(0, np.uint8)}
    constants |= {"one": np.array(1, np.float32), "small": np.array(0.01, np.float32)}
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.INT32, None),
        helper.make_tensor_value_info("kept", TensorProto.INT64, None),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ids, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_products_are_the_graphs_own() -> None:
    """Nothing but products and the rows that leave; fed with the graph's activations they give its values."""
    model = a_model()
    ids = np.random.default_rng(1).integers(1000, 9000, (ROWS, WIDTH))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert activations_of(model) == ["a"]
    given = compute_activations(model, ["a"], feed)
    assert given["a"].dtype == np.uint8
    alone = products_alone(model, given)
    assert [node.op_type for node in alone.graph.node] == ["MatMulInteger", "Gather"] * 2
    assert {one.name for one in alone.graph.initializer} == {"w0", "w1", "first_row"}
    rows = open_cpu_session(alone.SerializeToString()).run(None, given)
    whole = open_cpu_session(model.SerializeToString()).run(["y"], feed)[0]
    assert rows[0].tolist() == whole[0].tolist()
    assert len(rows[1]) == 4


def test_every_shape_has_rounds_of_both(tmp_path: Path) -> None:
    """By shape, then whole and products, then round."""
    onnx.save(a_model(), tmp_path / "model.onnx")
    found = drive(ProductsTask(str(tmp_path), [(2, WIDTH), (1, WIDTH)], rounds=3, seconds=0.001))
    assert [[len(rounds) for rounds in both] for both in found] == [[3, 3], [3, 3]]
    assert all(one.rate > 0 for both in found for rounds in both for one in rounds)


def test_a_graph_without_int8_products_says_so(tmp_path: Path) -> None:
    """An FP32 bundle has none to compare with."""
    model = a_model()
    del model.graph.node[3:5]
    model.graph.node[-1].input[0] = "a"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BenchmarkError, match="build it with --precision int8"):
        drive(ProductsTask(str(tmp_path), [(1, WIDTH)], rounds=1, seconds=0.001))
