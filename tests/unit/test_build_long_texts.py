"""Long texts: memory that grows with their length, not with its square, and the same bytes as without tiles."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears
from engine.build.running import open_graph
from engine.feeds import feeds
from tests.families.cases import cases, random_texts, read_golden, write_weights

HEADS, HIDDEN, WIDE, VOCAB, LIMIT = 12, 96, 384, 96, 8192
CONFIG = {
    "nomic_bert": {
        "n_embd": HIDDEN,
        "n_head": HEADS,
        "n_layer": 1,
        "n_inner": WIDE,
        "n_positions": LIMIT,
        "activation_function": "swiglu",
    },
    "modernbert": {
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "intermediate_size": WIDE,
        "max_position_embeddings": LIMIT,
        "global_attn_every_n_layers": 2,
    },
}
TENSORS = {
    "nomic_bert": {
        "embeddings.word_embeddings.weight": [VOCAB, HIDDEN],
        "emb_ln.weight": [HIDDEN],
        "encoder.layers.0.attn.Wqkv.weight": [3 * HIDDEN, HIDDEN],
        "encoder.layers.0.attn.out_proj.weight": [HIDDEN, HIDDEN],
        "encoder.layers.0.mlp.fc11.weight": [WIDE, HIDDEN],
        "encoder.layers.0.mlp.fc12.weight": [WIDE, HIDDEN],
        "encoder.layers.0.mlp.fc2.weight": [HIDDEN, WIDE],
        "encoder.layers.0.norm1.weight": [HIDDEN],
        "encoder.layers.0.norm2.weight": [HIDDEN],
    },
    "modernbert": {
        "embeddings.tok_embeddings.weight": [VOCAB, HIDDEN],
        "embeddings.norm.weight": [HIDDEN],
        "final_norm.weight": [HIDDEN],
        "layers.1.attn_norm.weight": [HIDDEN],
    }
    | {
        f"layers.{layer}.{name}.weight": shape
        for layer in (0, 1)
        for name, shape in {
            "attn.Wqkv": [3 * HIDDEN, HIDDEN],
            "attn.Wo": [HIDDEN, HIDDEN],
            "mlp_norm": [HIDDEN],
            "mlp.Wi": [2 * WIDE, HIDDEN],
            "mlp.Wo": [HIDDEN, WIDE],
        }.items()
    },
}
MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from engine.build.running import open_graph
from engine.feeds import feeds

run = open_graph(Path(sys.argv[1]).read_bytes(), threads=1)
peak_mb = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
run(feeds([np.arange(5, 21, dtype=np.int32)]))
before = peak_mb()
for texts, length in json.loads(sys.argv[2]):
    run(feeds([np.arange(length, dtype=np.int32) % 90 + 5] * texts))
print(peak_mb() - before)
"""


def write_model(folder: Path, kind: str, heads: int = HEADS) -> bytes:
    """The FP32 graph of a narrow model that takes 8,192 tokens."""
    write_weights(folder / "model.safetensors", TENSORS[kind])
    head_count = {"n_head": heads, "num_attention_heads": heads}
    shape = read_shape({"model_type": kind, "vocab_size": VOCAB} | CONFIG[kind] | head_count)
    weights = read_weights(folder / "model.safetensors", shape)
    content: bytes = write_graph(weights, Fp32Linears(), Head("mean", True)).SerializeToString()
    return content


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory as Linux has it")
@pytest.mark.parametrize("kind", sorted(CONFIG))
def test_memory_of_long_texts_is_bounded(tmp_path: Path, kind: str) -> None:
    """4,096 tokens in one text or in eight; the scores of the one alone would be 800 MB."""
    (tmp_path / "model.onnx").write_bytes(write_model(tmp_path, kind))
    shapes = json.dumps([[1, 4096], [8, 512]])
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "model.onnx"), shapes]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 250


@pytest.mark.parametrize("heads", [12, 1])
@pytest.mark.parametrize("kind", sorted(CONFIG))
def test_long_texts_do_not_depend_on_their_batch(tmp_path: Path, kind: str, heads: int) -> None:
    """Tiles and chunks are cut by what is in the batch; the bytes are not. Kernels differ by a head's size."""
    run = open_graph(write_model(tmp_path, kind, heads), threads=1)
    texts = random_texts([5, 127, 130, 257, 600, 1029, 1500, 2050], VOCAB)
    alone = [run(feeds([text]))["embeddings"][0].tobytes() for text in texts]
    for batch in [*([index, 7] for index in range(8)), [6, 4, 2, 0], list(range(8))]:
        vectors = run(feeds([texts[index] for index in batch]))["embeddings"]
        assert [vector.tobytes() for vector in vectors] == [alone[index] for index in batch]


@pytest.mark.parametrize("name", [name for name in cases() if not name.startswith("modernbert")])
def test_tiles_change_no_byte(tmp_path: Path, name: str) -> None:
    """Whole scores and tiles of them give the same vectors; a window alone takes its keys from elsewhere."""
    golden = read_golden(name)
    golden.write_checkpoint(tmp_path)
    weights = read_weights(tmp_path / "model.safetensors", read_shape(golden.config))
    whole, tiled = (
        open_graph(write_graph(weights, Fp32Linears(), Head("mean", True), tiled), threads=1)(feeds(golden.texts()))
        for tiled in (False, True)
    )
    np.testing.assert_array_equal(whole["embeddings"], tiled["embeddings"])
