"""The builder's step that makes the graph: in the precision asked for, or in the fastest exact one on this CPU."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from engine.build.calibration import CalibrationTexts, built_in_hold_out, with_single_words
from engine.build.checkpoint.weights import Weights
from engine.build.errors import QualityError
from engine.build.graph.half import to_half
from engine.build.graph.head import Head
from engine.build.graph.quantize import observe_fp32, write_fp32, write_int8
from engine.build.graph.rounding import Rounding
from engine.build.running import Run, open_graph
from engine.build.verify.speed import best_times, random_texts
from engine.bundle import Precision
from engine.feeds import feeds
from engine.model.check_vectors import CheckVectors, choose_check_texts
from engine.model.cpu_session import InexactProducts, require_exact_products
from engine.protocol import Int32Array

SPEED_SHAPE = (32, 16)  # texts, tokens each: what a batch looks like under load

Encode = Callable[[Sequence[str]], list[Int32Array]]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GraphInputs:
    """What a graph is made from. `reference`: the FP32 graph; `encode`: the tokenizer, texts to token ids."""

    weights: Weights
    head: Head
    reference: onnx.ModelProto
    texts: CalibrationTexts
    encode: Encode


@dataclass(frozen=True, slots=True)
class Made:
    """The bundle's graph. `nearest`: the same with weights rounded to the nearest, to show what GPTQ gained."""

    graph: onnx.ModelProto
    precision: Precision
    nearest: onnx.ModelProto | None = None


def make_graph(inputs: GraphInputs, precision: Precision | None, progress: Progress) -> Made:
    """The graph in `precision`; None: in INT8, or in FP32 should that measure faster on this CPU.

    Raises QualityError for INT8 on a CPU whose integer products are not exact.
    """
    if precision == "fp32":
        return Made(inputs.reference, "fp32")
    if precision == "fp16":
        # A GPU has the memory for whole scores, and a loop there waits for the host at every turn.
        return Made(to_half(write_fp32(inputs.weights, inputs.head, tiled=False)), "fp16")
    try:
        require_exact_products()
    except InexactProducts as error:
        if precision == "int8":
            raise QualityError(str(error)) from None
        progress(f"building in FP32: {error}")
        return Made(inputs.reference, "fp32")
    made = _quantize(inputs, progress)
    ratio = speed_ratio(made.graph, inputs.reference, inputs.weights.shape.vocab_size)
    progress(f"INT8 computes {ratio:.2f} x as many tokens/s as FP32 here, {SPEED_SHAPE[0]} x {SPEED_SHAPE[1]} tokens")
    if precision is None and ratio < 1:
        progress("FP32 is faster on this CPU, so the bundle is FP32; --precision int8 builds the smaller one")
        return Made(inputs.reference, "fp32")
    return made


def check_vectors(run: Run, reference: Run, encode: Encode) -> CheckVectors:
    """Vectors of built-in texts, never of the user's own: a bundle may be handed on."""
    texts = choose_check_texts(encode(built_in_hold_out()))
    built, fp32 = (np.concatenate([graph(feeds([text]))["embeddings"] for text in texts]) for graph in (run, reference))
    return CheckVectors(texts, built, fp32)


def speed_ratio(graph: onnx.ModelProto, reference: onnx.ModelProto, vocab_size: int) -> float:
    """Tokens/s of a graph over those of FP32, in CPU time of one thread, taking turns."""
    batch, tokens = SPEED_SHAPE
    inputs = feeds(random_texts([tokens] * batch, vocab_size))
    runs = {
        name: partial(open_graph(each, threads=1), inputs) for name, each in (("graph", graph), ("fp32", reference))
    }
    best_s = best_times(runs, time.thread_time)
    return best_s["fp32"] / best_s["graph"]


def _quantize(inputs: GraphInputs, progress: Progress) -> Made:
    texts = inputs.texts
    progress(f"calibrating on {len(texts.calibrate)} texts ({texts.lines})")
    seen = observe_fp32(inputs.weights, inputs.encode(with_single_words(texts.calibrate)))
    started_s = time.perf_counter()
    report = _LayerProgress(len(inputs.weights.layers), progress)
    graph = write_int8(inputs.weights, inputs.head, seen, on_round=report)
    progress(f"weights rounded in {time.perf_counter() - started_s:.1f} s")
    return Made(graph, "int8", nearest=write_int8(inputs.weights, inputs.head, seen, Rounding(gptq=False)))


class _LayerProgress:
    """Called with each input, "layer.3.down", whose weights are being rounded: reports each layer once."""

    def __init__(self, layers: int, progress: Progress) -> None:
        self._layers = layers
        self._progress = progress
        self._reported = ""

    def __call__(self, site: str) -> None:
        layer = site.rpartition(".")[0]
        if layer != self._reported:
            self._reported = layer
            number = int(layer.rpartition(".")[2]) + 1
            self._progress(f"rounding weights (GPTQ): layer {number} of {self._layers}")
