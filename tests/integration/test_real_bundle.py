"""The default bundle from the real all-MiniLM-L6-v2 checkpoint: close to FP32, the same bytes in any company."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from engine.build import build_bundle, default_checkpoint
from engine.build.calibration import read_texts
from engine.build.quality import cosine_report
from engine.build.running import Run, embed, open_graph
from engine.build.verify import embedding as verify
from engine.build.verify.reference import open_reference
from engine.bundle import Bundle, parse_tokenizer, read_bundle
from engine.feeds import Run as TextsRun
from engine.feeds import feeds
from engine.protocol import Int32Array
from engine.text_encoder import EncodedText, TextEncoder

GOLDEN = Path(__file__).parent.parent / "e2e" / "golden" / "minilm_fp32.json"
LENGTHS = [2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 23, 31, 32, 33, 47, 63, 64, 65, 99, 127, 128, 129, 200, 255, 256]
SPECIAL_TOKENS_END = 999  # below are [PAD], [CLS], [SEP] and unused ones

Encode = Callable[[list[str]], list[Int32Array]]


@pytest.fixture(scope="session")
def built(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Bundle]:
    """The default bundle in INT8, which it is unless FP32 is faster on this CPU."""
    if (bundle := read_bundle(real_bundle)).precision == "int8":
        return real_bundle, bundle
    out = tmp_path_factory.mktemp("models") / "all-MiniLM-L6-v2"
    return out, build_bundle(str(default_checkpoint()), out, precision="int8")


@pytest.fixture(scope="session")
def fp32(built: tuple[Path, Bundle]) -> TextsRun:
    """The FP32 graph by the same builder, from texts to vectors."""
    return open_reference(built[1], None, threads=1).run


@pytest.fixture(scope="session")
def encode(built: tuple[Path, Bundle]) -> Encode:
    """The bundle's own tokenizer."""
    tokenizer = parse_tokenizer((built[0] / "tokenizer.json").read_bytes(), built[1].max_tokens)
    return lambda texts: [np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch(texts)]


def graph(built: tuple[Path, Bundle], threads: int) -> Run:
    """The INT8 graph with so many threads an operator."""
    return open_graph((built[0] / "model.onnx").read_bytes(), threads)


def golden() -> tuple[list[str], np.ndarray]:
    """Texts and the vectors that sentence-transformers gives them."""
    entries = json.loads(GOLDEN.read_text(encoding="utf-8"))["entries"]
    return [entry["text"] for entry in entries], np.array([entry["vector"] for entry in entries], np.float32)


@pytest.mark.parametrize("max_tokens", [8, 256])
def test_long_texts_are_cut_before_they_are_tokenized(max_tokens: int) -> None:
    """The real tokenizer gives a beginning the tokens of the whole: of words, ideographs, marks and nothing at all."""
    content = (default_checkpoint() / "tokenizer.json").read_bytes()
    tokenizer, encoder = parse_tokenizer(content, max_tokens), TextEncoder(content, max_tokens, first_chars=100)
    parts = [
        *read_texts(None).hold_out[:50],
        "電車で東京へ。",
        "e\u0301" * 30,
        " " * 90,
        "\u200b" * 90,
        "x" * 250,
        "[MASK]",
        "!?…“”",
        "\t\n",
        "👨‍👩‍👧",
    ]
    for seed in range(60):
        text = " ".join(random.Random(seed).choices(parts, k=seed)) + "".join(random.Random(seed).choices(parts, k=9))
        whole = tokenizer.encode(text)
        expected = EncodedText(np.array(whole.ids, np.int32).tobytes(), len(whole.ids), bool(whole.overflowing))
        assert encoder.encode([text]) == [expected]


def test_the_fp32_graph_is_sentence_transformers(fp32: TextsRun, encode: Encode) -> None:
    """Tokens, truncation at 256, pooling and normalisation included."""
    texts, expected = golden()
    np.testing.assert_allclose(verify.embed(fp32, encode(texts)), expected, atol=2e-6)


def test_the_int8_graph_is_close_to_sentence_transformers(built: tuple[Path, Bundle], encode: Encode) -> None:
    """Single letters, punctuation and emoji included."""
    texts, expected = golden()
    report = cosine_report(embed(graph(built, 1), encode(texts)), expected)
    assert report["cosine_mean"] > 0.9993
    assert report["cosine_min"] > 0.996


def test_cosine_to_fp32(built: tuple[Path, Bundle], fp32: TextsRun, encode: Encode) -> None:
    """Over texts that did not calibrate, single words among them; the engine's bar is .999 and .995."""
    texts = encode(list(read_texts(None).hold_out))
    report = cosine_report(embed(graph(built, 1), texts), verify.embed(fp32, texts))
    assert report["cosine_mean"] > 0.9993
    assert report["cosine_min"] > 0.996


@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_are_the_same_bytes_in_any_batch(built: tuple[Path, Bundle], threads: int) -> None:
    """Alone, beside the longest, twice, shuffled among all: for one thread, two, and one against two."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(SPECIAL_TOKENS_END, 30_522, length, dtype=np.int32) for length in LENGTHS]
    reference = graph(built, 1)
    alone = [reference(feeds([text]))["embeddings"][0].tobytes() for text in texts]
    run, longest = graph(built, threads), len(texts) - 1
    batches = [[index] for index in range(len(texts))] if threads > 1 else [[0, 0]]
    batches += [[index, longest] for index in range(len(texts))] + [rng.permutation(len(texts)).tolist()]
    for batch in batches:
        vectors = run(feeds([texts[index] for index in batch]))["embeddings"]
        changed = [len(texts[i]) for i, vector in zip(batch, vectors, strict=True) if vector.tobytes() != alone[i]]
        assert not changed, f"lengths {changed} changed in a batch of {[len(texts[i]) for i in batch]}"


def test_the_bundle_says_how_good_it_is(built: tuple[Path, Bundle]) -> None:
    """What the build measured is kept; what the engine loads is at most 30 MB, the gateway's probe at most 20."""
    folder, bundle = built
    assert bundle.model == "all-MiniLM-L6-v2"
    assert bundle.max_tokens == 256
    assert bundle.quality["cosine_mean"] > bundle.quality["cosine_mean_nearest"] > 0.999
    assert bundle.quality["batch_dependent_texts"] == 0
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes.pop("static_embedding.npz") < 20e6
    assert sum(sizes.values()) < 30e6


def test_the_graph_needs_no_more_than_the_cpu_provider(built: tuple[Path, Bundle]) -> None:
    """It opens with the options of any server: all optimisations, no fallback."""
    session = ort.InferenceSession(built[0] / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["embeddings"]
    assert {node.name for node in session.get_inputs()} == set(feeds([np.array([1, 2], np.int32)]))
