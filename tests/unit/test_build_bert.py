"""The graph of a tiny random BERT against BERT in numpy, and its vectors' independence of the batch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears, Int8Linears, smoothing_scale
from engine.build.graph.onnx_writer import GraphWriter
from engine.build.graph.quantize import observe_fp32, outlier_neurons, write_fp32, write_int8
from engine.build.quality import cosine_report
from engine.build.running import Run, embed, open_graph
from engine.bundle import Pooling
from engine.feeds import feeds
from tests.tiny_bert import CONFIG, bert, ragged, tensors, write_checkpoint

LENGTHS = [2, 3, 1, 7, 15, 16, 17, 24, 5, 11, 23, 4]


def fp32_graph(folder: Path, pooling: Pooling = "mean", normalize: bool = False) -> Run:
    """The FP32 graph of the checkpoint in `folder`, opened."""
    shape = read_shape(json.loads((folder / "config.json").read_text()))
    weights = read_weights(folder / "model.safetensors", shape)
    return open_graph(write_graph(weights, Fp32Linears(), Head(pooling, normalize)), threads=1)


def int8_graph(folder: Path, threads: int = 1, pooling: Pooling = "mean") -> Run:
    """The INT8 graph of the tiny checkpoint, calibrated on random texts."""
    shape = read_shape(CONFIG)
    weights = read_weights(folder / "model.safetensors", shape)
    seen = observe_fp32(weights, ragged([24] * 20, seed=7))
    return open_graph(write_int8(weights, Head(pooling, True), seen), threads=threads)


@pytest.mark.parametrize("kind", ["gelu", "gelu_new", "relu"])
def test_fp32_graph_is_bert(tmp_path: Path, kind: str) -> None:
    """Mean-pooled hidden states equal the numpy reference for every supported activation."""
    config = write_checkpoint(tmp_path, hidden_act=kind)
    texts = ragged(LENGTHS)
    vectors = embed(fp32_graph(tmp_path), texts)
    expected = np.stack([bert(config, text).mean(axis=0) for text in texts])
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


@pytest.mark.parametrize(("pooling", "row"), [("cls", 0), ("last", -1)])
def test_pooling_takes_one_token(tmp_path: Path, pooling: Pooling, row: int) -> None:
    """CLS pooling is the first token's state, last-token pooling the last real one's, whatever the padding."""
    config = write_checkpoint(tmp_path)
    texts = ragged(LENGTHS)
    vectors = embed(fp32_graph(tmp_path, pooling), texts)
    np.testing.assert_allclose(vectors, np.stack([bert(config, text)[row] for text in texts]), atol=2e-5)


def test_normalized_vectors_have_unit_length(tmp_path: Path) -> None:
    """With a Normalize module the graph divides by the L2 norm."""
    write_checkpoint(tmp_path)
    vectors = embed(fp32_graph(tmp_path, normalize=True), ragged(LENGTHS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_roberta_positions_start_after_the_padding_token(tmp_path: Path) -> None:
    """RoBERTa's first position is pad_token_id + 1."""
    config = write_checkpoint(tmp_path, prefix="roberta.", model_type="roberta", pad_token_id=1)
    texts = ragged([5, 9])
    vectors = embed(fp32_graph(tmp_path), texts)
    expected = np.stack([bert(config, text, offset=2).mean(axis=0) for text in texts])
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_checkpoints_with_and_without_prefix_are_read(tmp_path: Path, prefix: str) -> None:
    """`BertModel` saves bare names, the models with a head put `bert.` before them."""
    write_checkpoint(tmp_path, prefix=prefix)
    weights = read_weights(tmp_path / "model.safetensors", read_shape(CONFIG))
    np.testing.assert_array_equal(weights.words, tensors(CONFIG)["embeddings.word_embeddings.weight"])
    assert len(weights.layers) == CONFIG["num_hidden_layers"]


def test_int8_graph_is_close_to_fp32(tmp_path: Path) -> None:
    """Random weights are the hardest case; even so the angle stays small."""
    write_checkpoint(tmp_path)
    texts = ragged(LENGTHS, seed=3)
    report = cosine_report(embed(int8_graph(tmp_path), texts), embed(fp32_graph(tmp_path), texts))
    assert report["cosine_mean"] > 0.998
    assert report["cosine_min"] > 0.99


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_int8_vectors_do_not_depend_on_the_batch(tmp_path: Path, threads: int, pooling: Pooling) -> None:
    """Alone, beside the longest, shuffled among all: the same bytes."""
    write_checkpoint(tmp_path)
    run, texts = int8_graph(tmp_path, threads, pooling), ragged(LENGTHS)
    alone = [run(feeds([text]))["embeddings"][0].tobytes() for text in texts]
    longest = max(range(len(texts)), key=lambda index: len(texts[index]))
    shuffled = np.random.default_rng(0).permutation(len(texts)).tolist()
    for batch in [*([index, longest] for index in range(len(texts))), shuffled, [0, 0]]:
        vectors = run(feeds([texts[index] for index in batch]))["embeddings"]
        assert [vector.tobytes() for vector in vectors] == [alone[index] for index in batch]


def test_a_row_of_zeros_stays_zero() -> None:
    """A product with nothing in it has nothing in its output, although its scale is zero."""
    graph = GraphWriter("one")
    x = graph.input("x", np.float32, ["tokens", 8])
    linears = Int8Linears({}, rows_like=graph.op("Gather", x, graph.constant("zero", np.array(0)), axis=1))
    weight = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    product = linears.multiply(graph, linears.prepare(graph, x, "site"), "site", "weight", weight, None)
    graph.output(product, "y", np.float32, ["tokens", 4])
    given = np.stack([np.zeros(8), np.arange(8)]).astype(np.float32)
    y = open_graph(graph.model())({"x": given})["y"]
    np.testing.assert_array_equal(y[0], np.zeros(4))
    np.testing.assert_allclose(y[1], given[1] @ weight, atol=0.2)


def test_outlier_neurons_are_those_with_the_largest_peaks() -> None:
    """Sixteen of a wide layer, never more than half; in the order in which they stand."""
    peaks = np.arange(64, dtype=np.float32)
    peaks[[3, 40]] = 100.0
    assert outlier_neurons(peaks).tolist() == [3, 40, *range(50, 64)]
    assert len(outlier_neurons(np.ones(6, np.float32))) == 3


def test_neurons_kept_apart_change_nothing_in_fp32(tmp_path: Path) -> None:
    """The two parts of the feed-forward layer add up to the whole, its bias counted once."""
    write_checkpoint(tmp_path)
    weights = read_weights(tmp_path / "model.safetensors", read_shape(CONFIG))
    apart = replace(weights, layers=tuple(layer.with_outliers(np.array([5, 9, 60])) for layer in weights.layers))
    head, texts = Head("mean", True), ragged(LENGTHS)
    whole, parts = (embed(open_graph(write_fp32(each, head)), texts) for each in (weights, apart))
    np.testing.assert_allclose(parts, whole, atol=2e-6)


def test_smoothing_moves_outliers_into_the_weight() -> None:
    """SmoothQuant's formula at alpha 0.7, for channels with peaks 100 and 1 and equal weights."""
    s = smoothing_scale(np.array([100.0, 1.0], np.float32), np.full((2, 3), 0.5, np.float32), 0.7)
    np.testing.assert_allclose(s, [100**0.7 / 0.5**0.3, 1 / 0.5**0.3], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "deberta-v2"}, "model_type 'deberta-v2' has no graph here; supported are bert"),
        ({"model_type": "nomic_bert", "num_experts": 8}, "num_experts 8 is not supported"),
        ({"model_type": "nomic_bert", "activation_function": "gelu"}, "activation_function 'gelu'"),
        ({"model_type": "gte", "rope_parameters": {"rope_type": "yarn"}}, "'yarn'"),
        ({"hidden_act": "tanh"}, "hidden_act 'tanh'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_unsupported_architectures_are_named(changes: dict[str, object], message: str) -> None:
    """The error says what was found and what is supported."""
    with pytest.raises(UnsupportedModel, match=message):
        read_shape(CONFIG | changes)


def test_a_shape_that_config_denies_is_an_error(tmp_path: Path) -> None:
    """The error names the tensor and both shapes."""
    write_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight has shape \(100, 32\)"):
        read_weights(tmp_path / "model.safetensors", read_shape(CONFIG | {"vocab_size": 101}))


def test_a_missing_layer_is_an_error(tmp_path: Path) -> None:
    """A config with more layers than the file holds is found out."""
    write_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor encoder\.layer\.2\."):
        read_weights(tmp_path / "model.safetensors", read_shape(CONFIG | {"num_hidden_layers": 3}))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_read(tmp_path: Path, kind: str) -> None:
    """Newer checkpoints are saved in 16 bits; they are computed with in 32."""
    write_checkpoint(tmp_path)
    halves = {name: value.astype(np.dtype(kind)) for name, value in tensors(CONFIG).items()}
    save_file(halves, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path / "model.safetensors", read_shape(CONFIG))
    assert weights.words.dtype == np.float32
    np.testing.assert_array_equal(weights.words, halves["embeddings.word_embeddings.weight"].astype(np.float32))


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    """Not safetensors, no traceback."""
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "model.safetensors", read_shape(CONFIG))
