"""The FP16 graph: close to FP32 even as a GPU rounds, of operators that CUDA has, the same bytes in any company."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from engine.build import build_bundle
from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.errors import UnsupportedModel
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.half import to_half
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears
from engine.build.graph.onnx_writer import CONTRIB, GraphWriter
from engine.build.quality import cosine_report, count_batch_dependent
from engine.build.running import Run, embed, open_graph
from engine.bundle import Pooling
from tests.families.cases import cases, read_golden
from tests.tiny_bert import ragged, write_checkpoint

LENGTHS = [2, 3, 1, 7, 15, 16, 17, 24, 5, 11, 23, 4]
# Operators with a CUDA kernel for the types used here: "CUDAExecutionProvider" in docs/OperatorKernels.md of
# ONNX Runtime. Left out are those that have one for other types only, such as MatMulInteger (int8 x int8).
CUDA_OPERATORS = {
    "": set(
        "Abs Add Cast Concat Div Equal Gather Greater Identity LayerNormalization MatMul Max Mul Range ReduceSum Relu"
        " Reshape Shape Softmax Sqrt Squeeze Sub Tanh Unsqueeze Where".split()
    ),
    CONTRIB: {"BiasGelu", "FastGelu", "FusedMatMul", "Gelu", "QuickGelu", "RotaryEmbedding"},
}


def fp32_model(folder: Path, kind: str = "gelu", pooling: Pooling = "mean") -> onnx.ModelProto:
    """The FP32 graph of a tiny checkpoint."""
    config = write_checkpoint(folder, hidden_act=kind)
    weights = read_weights(folder / "model.safetensors", read_shape(config))
    return write_graph(weights, Fp32Linears(), Head(pooling, True))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "relu"])
def test_half_graph_runs_on_a_cpu_close_to_fp32(tmp_path: Path, kind: str, pooling: Pooling) -> None:
    """The same feeds, float32 embeddings of unit length, next to no angle."""
    model = fp32_model(tmp_path, kind, pooling)
    vectors = embed(open_graph(to_half(model), threads=1), ragged(LENGTHS))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    report = cosine_report(vectors, embed(open_graph(model, threads=1), ragged(LENGTHS)))
    assert report["cosine_mean"] >= 0.9999
    assert report["cosine_min"] >= 0.999


@pytest.mark.parametrize("kind", ["gelu", "relu"])
def test_half_graph_is_close_to_fp32_with_every_value_rounded(tmp_path: Path, kind: str) -> None:
    """A CPU keeps FP32 between operators; a GPU rounds each one's output to FP16, as the evaluator here does."""
    model = fp32_model(tmp_path, kind)
    vectors = embed(rounded(to_half(model)), ragged(LENGTHS))
    report = cosine_report(vectors, embed(open_graph(model, threads=1), ragged(LENGTHS)))
    assert report["cosine_mean"] >= 0.9999
    assert report["cosine_min"] >= 0.999


@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_half_graph_has_only_operators_that_cuda_has(tmp_path: Path, kind: str, pooling: Pooling) -> None:
    """Any other would run on the CPU, with copies to and from the GPU around it."""
    nodes = to_half(fp32_model(tmp_path, kind, pooling)).graph.node
    assert {(node.domain, node.op_type) for node in nodes if node.op_type not in CUDA_OPERATORS[node.domain]} == set()


def test_half_graph_keeps_softmax_and_pooling_in_fp32(tmp_path: Path) -> None:
    """Softmax takes and gives FP32; no constant of the head is FP16; no FP32 weight is left in the encoder."""
    graph = to_half(fp32_model(tmp_path)).graph
    casts = {node.output[0]: node.attribute[0].i for node in graph.node if node.op_type == "Cast"}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2
    assert all(casts[node.input[0]] == TensorProto.FLOAT for node in softmaxes)
    end = max(index for index, node in enumerate(graph.node) if node.op_type == "LayerNormalization")
    head = {name for node in graph.node[end + 1 :] for name in node.input}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert all(types.get(name) != TensorProto.FLOAT16 for name in head)
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} <= head


def test_half_vectors_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """On a CPU, to the byte; what a GPU does is measured there."""
    assert count_batch_dependent(open_graph(to_half(fp32_model(tmp_path)), threads=1), 24, 100) == 0


def test_fp16_bundles_are_built_and_half_as_large(tmp_path: Path) -> None:
    """The builder measures them against FP32 as it does INT8."""
    write_checkpoint(tmp_path / "tiny")
    bundle = build_bundle(str(tmp_path / "tiny"), tmp_path / "fp16", precision="fp16")
    assert (bundle.precision, bundle.quality["batch_dependent_texts"]) == ("fp16", 0)
    assert bundle.quality["cosine_mean"] >= 0.9999
    build_bundle(str(tmp_path / "tiny"), tmp_path / "fp32", precision="fp32")
    sizes = [sum(weight_bytes(tmp_path / name / "model.onnx")) for name in ("fp16", "fp32")]
    assert sizes[0] <= 0.51 * sizes[1]


def weight_bytes(path: Path) -> list[int]:
    """The size of each constant of a graph."""
    return [onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer]


def test_a_weight_too_large_for_fp16_is_refused() -> None:
    """It would become infinite."""
    graph = GraphWriter("large")
    x = graph.input("x", np.int32, ["rows"])
    row = graph.op("Gather", graph.constant("table", np.array([[1.0, 70_000.0]], np.float32)), x)
    ones = graph.constant("ones", np.ones(2, np.float32))
    graph.output(graph.op("LayerNormalization", row, ones), "embeddings", np.float32, ["rows", 2])
    with pytest.raises(UnsupportedModel, match="table holds 70000, too large for FP16"):
        to_half(graph.model())


def test_a_graph_without_a_layer_norm_is_refused() -> None:
    """Nothing says where its encoder ends."""
    graph = GraphWriter("plain")
    x = graph.input("x", np.int32, ["rows"])
    graph.output(graph.op("Gather", graph.constant("table", np.ones((2, 2), np.float32)), x), "y", np.float32, [1, 2])
    with pytest.raises(UnsupportedModel, match="without a LayerNormalization"):
        to_half(graph.model())


def rounded(model: onnx.ModelProto) -> Run:
    """Runs a graph in numpy: each operator sums in FP32 and rounds its output to its own type, as CUDA's do."""
    operators = [_BiasGelu, _FusedMatMul, _LayerNormalization, _MatMul]
    evaluator = ReferenceEvaluator(model, new_ops=[type(kind.__name__[1:], (kind,), {}) for kind in operators])
    return lambda inputs: {"embeddings": evaluator.run(None, inputs)[0]}


class _MatMul(OpRun):  # type: ignore[misc]
    def _run(self, a: Any, b: Any) -> tuple[Any]:
        return ((a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype),)


class _FusedMatMul(OpRun):  # type: ignore[misc]
    op_domain = CONTRIB

    def _run(self, a: Any, b: Any, alpha: float = 1.0, transB: int = 0) -> tuple[Any]:  # noqa: N803
        right = np.swapaxes(b, -1, -2) if transB else b
        return ((alpha * (a.astype(np.float32) @ right.astype(np.float32))).astype(a.dtype),)


class _BiasGelu(OpRun):  # type: ignore[misc]
    op_domain = CONTRIB

    def _run(self, a: Any, b: Any) -> tuple[Any]:
        x = a.astype(np.float32) + b.astype(np.float32)
        return ((x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(a.dtype),)


class _LayerNormalization(OpRun):  # type: ignore[misc]
    def _run(self, x: Any, scale: Any, bias: Any, axis: int, epsilon: float, stash_type: int = 1) -> tuple[Any]:
        centred = x.astype(np.float32) - x.mean(-1, dtype=np.float32, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return ((normal * scale.astype(np.float32) + bias.astype(np.float32)).astype(x.dtype),)


@pytest.mark.parametrize("name", cases())
def test_half_graph_of_every_family(tmp_path: Path, name: str) -> None:
    """Close to what transformers computes in FP32, of operators that CUDA has."""
    golden = read_golden(name)
    golden.write_checkpoint(tmp_path)
    weights = read_weights(tmp_path / "model.safetensors", read_shape(golden.config))
    model = to_half(write_graph(weights, Fp32Linears(), Head("mean", True), tiled=False))
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    assert {(domain, kind) for domain, kind in operators if kind not in CUDA_OPERATORS[domain]} == set()
    report = cosine_report(embed(open_graph(model, threads=1), golden.texts()), golden.mean)
    assert report["cosine_mean"] >= 0.9999
    assert report["cosine_min"] >= 0.999
