"""Dense modules of sentence-transformers: in the graph, in the bundle, or refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.build import build_bundle
from engine.build.checkpoint.dense import read_dense
from engine.build.checkpoint.files import open_checkpoint
from engine.build.errors import BuildError
from engine.build.running import embed, open_graph
from engine.build.verify.reference import open_reference
from engine.feeds import feeds
from tests.tiny_bert import bert, ragged, write_checkpoint, write_json

LENGTHS = [2, 3, 1, 7, 15, 16, 17, 24]
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
PATHS = ("", "1_Pooling", "2_Dense", "3_Normalize")


def write_dense(folder: Path, activation: str = "torch.nn.modules.activation.Tanh", bias: bool = True) -> None:
    """A Dense module from 32 dimensions to 12 between pooling and normalisation."""
    rng = np.random.default_rng(5)
    tensors = {"linear.weight": rng.standard_normal((12, 32)).astype(np.float32) / 5}
    if bias:
        tensors["linear.bias"] = rng.standard_normal(12).astype(np.float32)
    write_json(folder / "2_Dense" / "config.json", {"activation_function": activation})
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    kinds = zip(KINDS, PATHS, strict=True)
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    write_json(folder / "modules.json", entries)


@pytest.mark.parametrize("activation", ["Tanh", "Identity"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_comes_between_pooling_and_normalisation(tmp_path: Path, activation: str, bias: bool) -> None:
    """`activation(W mean + b)` at unit length; the bundle says how many dimensions that are, and can be verified."""
    config = write_checkpoint(tmp_path / "tiny")
    write_dense(tmp_path / "tiny", f"torch.nn.modules.{activation}", bias)
    bundle = build_bundle(str(tmp_path / "tiny"), tmp_path / "out", precision="fp32")
    assert bundle.dimensions == 12
    texts = ragged(LENGTHS)
    (dense,) = read_dense(open_checkpoint(str(tmp_path / "tiny")), ("2_Dense",), 32)
    means = np.stack([bert(config, text).mean(axis=0) for text in texts])
    expected = means @ dense.linear.weight + (0 if dense.linear.bias is None else dense.linear.bias)
    expected = np.tanh(expected) if activation == "Tanh" else expected
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embed(open_graph((tmp_path / "out" / "model.onnx").read_bytes()), texts)
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
    reference = open_reference(bundle, str(tmp_path / "tiny"), 1)
    np.testing.assert_allclose(reference.run(texts), expected, atol=2e-5)


def test_dense_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """A lone vector meets the same kernel as many."""
    write_checkpoint(tmp_path / "tiny")
    write_dense(tmp_path / "tiny")
    build_bundle(str(tmp_path / "tiny"), tmp_path / "out", precision="int8", force=True)
    run, texts = open_graph((tmp_path / "out" / "model.onnx").read_bytes(), threads=1), ragged(LENGTHS)
    together = run(feeds(texts))["embeddings"]
    for text, vector in zip(texts, together, strict=True):
        assert run(feeds([text]))["embeddings"][0].tobytes() == vector.tobytes()


def test_other_dense_weights_are_another_bundle(tmp_path: Path) -> None:
    """The recipe has the module's hash, so that a changed module is built again."""
    write_checkpoint(tmp_path / "tiny")
    write_dense(tmp_path / "tiny")
    first = build_bundle(str(tmp_path / "tiny"), tmp_path / "out", precision="fp32")
    write_dense(tmp_path / "tiny", bias=False)
    assert build_bundle(str(tmp_path / "tiny"), tmp_path / "out", precision="fp32").graph_sha256 != first.graph_sha256


def test_a_dense_module_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """An activation without a graph, a pickle, a matrix of other dimensions."""
    write_checkpoint(tmp_path)
    write_dense(tmp_path, "torch.nn.modules.activation.Softplus")
    with pytest.raises(BuildError, match="Softplus; supported are Tanh, Identity"):
        build_bundle(str(tmp_path), tmp_path / "out")
    write_dense(tmp_path)
    with pytest.raises(BuildError, match=r"no linear\.weight for vectors of 16 dimensions"):
        read_dense(open_checkpoint(str(tmp_path)), ("2_Dense",), 16)
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(BuildError, match="never loaded"):
        build_bundle(str(tmp_path), tmp_path / "out")
