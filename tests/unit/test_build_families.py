"""Every family's graph against what transformers computes, and its vectors' independence of the batch.

The golden numbers are written by `python -m tests.families`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engine.build import build_bundle
from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import Weights, read_weights
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears
from engine.build.graph.quantize import observe_fp32, write_int8
from engine.build.quality import cosine_report
from engine.build.running import Run, embed, open_graph
from engine.bundle import Pooling
from engine.feeds import feeds
from engine.model.session import open_model
from engine.model.topology import Topology
from tests.cpus.products import integer_weights
from tests.families.cases import Golden, cases, random_texts, read_golden
from tests.tiny_bert import write_tokenizer


def weights_of(golden: Golden, folder: Path) -> Weights:
    """The case's checkpoint, read as the builder reads it."""
    golden.write_checkpoint(folder)
    return read_weights(folder / "model.safetensors", read_shape(golden.config))


def fp32(weights: Weights, pooling: Pooling, tiled: bool | None = None) -> Run:
    """The FP32 graph, opened; vectors are not normalised."""
    return open_graph(write_graph(weights, Fp32Linears(), Head(pooling, normalize=False), tiled), threads=1)


def int8(weights: Weights, pooling: Pooling = "mean", threads: int = 1) -> Run:
    """The INT8 graph, calibrated on random texts."""
    seen = observe_fp32(weights, random_texts([38] * 20, weights.shape.vocab_size))
    return open_graph(write_int8(weights, Head(pooling, True), seen), threads)


def largest_difference(vectors: np.ndarray, expected: np.ndarray) -> float:
    """Relative to the length of each expected vector."""
    return float((np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def alone(run: Run, texts: list[np.ndarray]) -> np.ndarray:
    """Each text in a run of its own."""
    return np.concatenate([run(feeds([text]))["embeddings"] for text in texts])


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("name", cases())
def test_fp32_graph_is_what_transformers_computes(tmp_path: Path, name: str, tiled: bool) -> None:
    """Lengths from 1 to the limit, in padded batches and alone, whole and in tiles: within 1e-4."""
    golden = read_golden(name)
    weights, texts = weights_of(golden, tmp_path), golden.texts()
    run = fp32(weights, "mean", tiled)
    for vectors in (run(feeds(texts))["embeddings"], alone(run, texts)):
        assert largest_difference(vectors, golden.mean) < 1e-4
    for pooling, expected in (("cls", golden.first), ("last", golden.last)):
        vectors = embed(fp32(weights, pooling, tiled), texts)
        assert largest_difference(vectors, expected) < 1e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", cases())
def test_int8_vectors_do_not_depend_on_the_batch(tmp_path: Path, name: str, threads: int) -> None:
    """Alone, beside the longest, shuffled among all: the same bytes; and close to FP32."""
    golden = read_golden(name)
    weights, texts = weights_of(golden, tmp_path), golden.texts()
    run = int8(weights, threads=threads)
    by_itself = alone(run, texts)
    longest = max(range(len(texts)), key=lambda index: len(texts[index]))
    shuffled = np.random.default_rng(0).permutation(len(texts)).tolist()
    for batch in [*([index, longest] for index in range(len(texts))), shuffled, [0, 0]]:
        vectors = run(feeds([texts[index] for index in batch]))["embeddings"]
        assert vectors.tobytes() == by_itself[batch].tobytes()
    assert cosine_report(by_itself, golden.mean)["cosine_mean"] > 0.995


@pytest.mark.parametrize(
    "name", ["distilbert", "mpnet", "nomic-bert-published", "nomic-bert", "modernbert-long", "gte"]
)
def test_a_bundle_of_every_family_is_served(tmp_path: Path, name: str) -> None:
    """From the checkpoint's folder to the engine's session: whole, independent of batches, agreeing with its checks."""
    golden, source = read_golden(name), tmp_path / name
    source.mkdir()
    golden.write_checkpoint(source)
    write_tokenizer(source / "tokenizer.json")
    rng = np.random.default_rng(2)
    lines = [" ".join(f"w{number}" for number in rng.integers(0, 96, 36)) for _ in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    options: dict[str, Any] = {"calibration_file": tmp_path / "texts.txt", "force": True}
    bundle = build_bundle(str(source), tmp_path / "out", precision="int8", **options)
    assert (bundle.max_tokens, bundle.quality["batch_dependent_texts"]) == (golden.lengths[-1] + 2 * short(golden), 0)
    model = open_model(tmp_path / "out", "cpu", Topology(1.0, 1, 1), allow_unverified=True)
    assert len([*integer_weights(onnx.load(tmp_path / "out" / "model.onnx"))]) == len(weight_sites(golden))
    vectors = model.runs[0](golden.texts())
    assert cosine_report(vectors, golden.mean)["cosine_mean"] > 0.995


def short(golden: Golden) -> bool:
    """Whether the case's model takes 40 tokens; its longest text has 38."""
    return golden.lengths[-1] == 38


def weight_sites(golden: Golden) -> list[tuple[int, str]]:
    """The products of the case's INT8 graph: two for query, key and value, and one for each other matrix of a layer."""
    shape = read_shape(golden.config)
    others = ["out", "up", "down", *(["gate"] if shape.family.gated else [])]
    return [(layer, site) for layer in range(shape.layers) for site in ("first", "second", *others)]
