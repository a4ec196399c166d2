"""From FP32 weights and calibration texts to the INT8 graph: how each input of a layer is quantised.

Cosine to FP32, mean / min, MiniLM-L6, on a CPU with AVX2 and no VNNI (`python -m tests.cpus.candidates` makes the
first four rows' kind of table; hold-out: 252 texts, words: 340 single words):

    rounded to the nearest, qkv with fixed steps at alpha 0.8, up smoothed   .99931 .99522   .99904 .99107
    ... pairs of weights bounded                                            .99923 .99474   .99896 .99400
    ... and GPTQ                                                            .99943 .99648   .99910 .99530
    ... calibrated on single words too                                      .99945 .99681   .99916 .99640
    ... qkv at alpha 0.9, lower zero point 24 for GELU's output             .99951 .99721   .99923 .99575
    ... 16 outlier neurons a layer in FP32                                  .99959 .99811   .99939 .99765   <- here

Both inputs that come out of a LayerNorm have outlier channels, and smoothing pays there. The attention's output gains
nothing by it. GELU's output gets worse by it (.9990 .9842 on words at the best threshold): dividing a channel by ten
makes its weights ten times larger than the rest of their column. What it suffers from are a few neurons that answer
to special tokens with values of 15 to 25 where others reach 2, so that whole rows are rounded coarsely; those neurons
are computed in FP32 beside the INT8 product (as LLM.int8() does for outlier channels, Dettmers et al., 2022), at 1 %
of the time. Tried and left out: weights corrected for the error of the layers before (words .99933, but six passes
over the texts instead of one), tokens weighted by the length of their text, other damping: within noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from engine.build.checkpoint.weights import Weights
from engine.build.graph.activations import Activations, observe
from engine.build.graph.encoder_graph import write_graph
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears, Int8Linears, fixed_steps, smoothing_scale
from engine.build.graph.rounding import GPTQ_PAIRS, Rounding
from engine.build.running import open_graph
from engine.protocol import Float32Array, Int32Array

ALPHA = 0.7  # SmoothQuant's, for inputs with a scale per token
FIXED_ALPHA = 0.9  # and for inputs with fixed steps, which lean more on the weights
FIXED_MARGIN = 1.05  # of the steps, over what calibration has seen
OUTLIER_NEURONS = 16  # of a layer; 4 do most of it, and kernels want the rest to be a multiple of 16


def write_fp32(weights: Weights, head: Head, tiled: bool | None = None) -> onnx.ModelProto:
    """The FP32 graph; `tiled` as in `write_graph`."""
    return write_graph(weights, Fp32Linears(), head, tiled)


def observe_fp32(weights: Weights, texts: Sequence[Int32Array]) -> Activations:
    """What `texts` show of the activations, without smoothing or rounding."""
    graph = write_graph(weights, Fp32Linears(observe=True), Head("mean", normalize=False))
    return observe(open_graph(graph), texts)


def write_int8(
    weights: Weights,
    head: Head,
    seen: Activations,
    rounding: Rounding = GPTQ_PAIRS,
    on_round: Callable[[str], None] = lambda _: None,
) -> onnx.ModelProto:
    """The INT8 graph, smoothed and rounded by what calibration has `seen`. `on_round` is called with each input."""
    grams = dict(seen.grams)
    smoothing: dict[str, Float32Array] = {}
    steps: dict[str, Float32Array] = {}
    layers = []
    for index, layer in enumerate(weights.layers):
        qkv, up, down = (f"layer.{index}.{site}" for site in ("qkv", "up", "down"))
        attention = np.concatenate([layer.query.weight, layer.key.weight, layer.value.weight], axis=1)
        steps[qkv] = fixed_steps(seen.peaks[qkv], attention, FIXED_ALPHA, FIXED_MARGIN)
        outliers = outlier_neurons(seen.peaks[down])
        layers.append(layer.with_outliers(outliers))
        grams[down] = np.delete(np.delete(grams[down], outliers, axis=0), outliers, axis=1)
        widening = [linear.weight for linear in (layers[-1].gate, layers[-1].up) if linear is not None]
        smoothing[up] = smoothing_scale(seen.peaks[up], np.concatenate(widening, axis=1), ALPHA)
    linears = Int8Linears(smoothing, steps, grams, rounding, on_round)
    return write_graph(replace(weights, layers=tuple(layers)), linears, head)


def outlier_neurons(peaks: Float32Array) -> npt.NDArray[np.intp]:
    """The feed-forward neurons with the largest peaks, float32[intermediate], in ascending order."""
    count = min(OUTLIER_NEURONS, len(peaks) // 2)
    return np.sort(np.argsort(peaks, kind="stable")[len(peaks) - count :])
