"""Every family in one table: `python -m tests.families.table`, a quarter of an hour on one core; or some, by name.

Differences are those of the golden cases' tiny models; speed and memory those of the family's usual size with random
weights, each rounded to its nearest (GPTQ changes neither). Speed is in CPU time of one thread; the graphs take turns.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from engine.build.checkpoint.shape import Shape, read_shape
from engine.build.checkpoint.weights import Layer, LayerNorm, Linear, Weights, read_weights
from engine.build.graph.activations import Activations
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears
from engine.build.graph.quantize import observe_fp32, write_int8
from engine.build.graph.rounding import Rounding
from engine.build.quality import cosine_report, count_batch_dependent
from engine.build.running import embed, open_graph
from engine.build.verify.speed import best_times, random_texts
from engine.feeds import feeds
from tests.families.cases import cases, read_golden
from tests.families.cases import random_texts as texts_without_padding

BASE = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "vocab_size": 30528,
}
SIZES: dict[str, dict[str, Any]] = {
    "bert": BASE | {"max_position_embeddings": 512},
    "distilbert": BASE | {"num_hidden_layers": 6, "max_position_embeddings": 512},
    "mpnet": BASE | {"max_position_embeddings": 514, "pad_token_id": 1},
    "nomic_bert": BASE | {"max_position_embeddings": 8192, "hidden_act": "silu"},
    "modernbert": BASE | {"max_position_embeddings": 8192, "num_hidden_layers": 22, "intermediate_size": 1152},
    "gte": BASE | {"max_position_embeddings": 8192},
}
SHORT = (32, 16)
LENGTHS = (512, 2048, 8192)
MEASURE = """
import sys, time
from pathlib import Path
import numpy as np
from engine.build.running import open_graph
from engine.feeds import feeds

run = open_graph(Path(sys.argv[1]).read_bytes(), threads=1)
for length in map(int, sys.argv[2:]):
    inputs = feeds([np.arange(length, dtype=np.int32) % 30000])
    started_s = time.thread_time()
    run(inputs)
    print(1000 * (time.thread_time() - started_s) / length)
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)  # peak, as Linux has it
"""


def random_weights(shape: Shape) -> Weights:
    """Weights of a shape, without biases but in norms."""
    rng = np.random.default_rng(0)
    hidden, wide = shape.hidden, shape.intermediate

    def linear(inputs: int, outputs: int) -> Linear:
        return Linear(rng.standard_normal((inputs, outputs), dtype=np.float32) / np.float32(np.sqrt(inputs)), None)

    def biased(inputs: int, outputs: int) -> Linear:
        return Linear(linear(inputs, outputs).weight, rng.standard_normal(outputs, dtype=np.float32) / 3)

    def norm() -> LayerNorm:
        return LayerNorm(1 + rng.standard_normal(hidden, dtype=np.float32) / 5)

    family = shape.family
    make = biased if family.biases else linear
    layers = [
        Layer(
            *(make(hidden, hidden) for _ in range(4)),
            attention_norm=norm(),
            up=make(hidden, wide),
            gate=make(hidden, wide) if family.gated else None,
            down=make(wide, hidden),
            norm=norm(),
        )
        for _ in range(shape.layers)
    ]
    learned = family.positions == "learned"
    has_relative_bias = any(layout.relative_bias for layout in family.layouts)
    return Weights(
        shape=shape,
        words=rng.standard_normal((shape.vocab_size, hidden), dtype=np.float32),
        positions=rng.standard_normal((shape.max_positions, hidden), dtype=np.float32) if learned else None,
        relative_bias=rng.standard_normal((32, shape.heads), dtype=np.float32) if has_relative_bias else None,
        embedding_norm=norm(),
        layers=tuple(layers),
        final_norm=norm() if family.norms_first else None,
    )


def int8_of(weights: Weights) -> onnx.ModelProto:
    """The INT8 graph as if every input had been seen between -4 and 4."""
    seen = Activations()
    shape = weights.shape
    for layer in range(shape.layers):
        for site, size in (("qkv", shape.hidden), ("up", shape.hidden), ("down", shape.intermediate)):
            seen.peaks[f"layer.{layer}.{site}"] = np.full(size, 4, np.float32)
            seen.grams[f"layer.{layer}.{site}"] = np.eye(size, dtype=np.float32)
    return write_int8(weights, Head("mean", True), seen, Rounding(gptq=False))


def differences(family: str, folder: Path) -> tuple[float, dict[str, float], int]:
    """Over the family's golden cases: largest relative difference in FP32; cosines in INT8; batch-dependent texts."""
    largest, vectors, expected, dependent = 0.0, [], [], 0
    for name in cases():
        golden = read_golden(name)
        if golden.config["model_type"] != family:
            continue
        golden.write_checkpoint(folder)
        weights = read_weights(folder / "model.safetensors", read_shape(golden.config))
        texts = golden.texts()
        exact = embed(open_graph(write_graph(weights, Fp32Linears(), Head("mean", False))), texts)
        apart = np.linalg.norm(exact - golden.mean, axis=1) / np.linalg.norm(golden.mean, axis=1)
        largest = max(largest, float(apart.max()))
        seen = observe_fp32(weights, texts_without_padding([38] * 20, weights.shape.vocab_size))
        run = open_graph(write_int8(weights, Head("mean", True), seen), threads=1)
        vectors.append(embed(run, texts))
        expected.append(golden.mean)
        dependent += count_batch_dependent(run, weights.shape.max_positions, weights.shape.vocab_size)
    reports = [cosine_report(*pair) for pair in zip(vectors, expected, strict=True)]
    mean = sum(report["cosine_mean"] for report in reports) / len(reports)
    return largest, {"mean": mean, "min": min(report["cosine_min"] for report in reports)}, dependent


def row(family: str, folder: Path) -> str:
    """One line of the table."""
    largest, cosine, dependent = differences(family, folder)
    weights = random_weights(read_shape({"model_type": family} | SIZES[family]))
    shape = weights.shape
    matrices = shape.layers * shape.hidden * (4 * shape.hidden + (3 if shape.family.gated else 2) * shape.intermediate)
    graph = int8_of(weights)
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString())
    inputs = feeds(random_texts([SHORT[1]] * SHORT[0], shape.vocab_size))
    fp32 = write_graph(weights, Fp32Linears(), Head("mean", True))
    runs = {"int8": partial(open_graph(graph, 1), inputs), "fp32": partial(open_graph(fp32, 1), inputs)}
    best_s = best_times(runs, time.thread_time)
    lengths = [length for length in LENGTHS if length <= shape.max_positions]
    command = [sys.executable, "-c", MEASURE, str(path), *map(str, lengths)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *times_ms, memory = map(float, output.split())
    tokens = SHORT[0] * SHORT[1]
    return (
        f"| {family} | {(matrices + weights.words.size) / 1e6:.0f} M | {largest:.1e} | {cosine['mean']:.4f} /"
        f" {cosine['min']:.4f} | {dependent} | {tokens / best_s['int8']:.0f} / {tokens / best_s['fp32']:.0f} |"
        f" {shape.max_positions} | {' / '.join(f'{each:.1f}' for each in times_ms)} | {memory:.0f} MB |"
    )


def main() -> None:
    """Print the table."""
    print("| family | parameters | FP32 to transformers | INT8 cosine, mean / min | batch-dependent | ", end="")
    print(
        "tokens/s, INT8 / FP32 | limit | ms a token, 512 / 2,048 / 8,192 | memory at the limit |\n" + 9 * "|---" + "|",
        flush=True,
    )
    for family in sys.argv[1:] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(family, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
