"""From FP32 weights and calibration texts to the INT8 graph. Knows which input of a layer is quantised how.

Every input of MiniLM-L6 was tried every way (cosine to FP32, mean / min over 150 bank questions, 60 documentation
chunks, 100 strings of random tokens, 150 single words):

    scale per token, nothing smoothed          .9979 / .9941 on questions and chunks together
    ... qkv and up smoothed                    .9993 .9987   .9993 .9989   .9980 .9968   .9983 .9938
    qkv with fixed steps, up smoothed          .9993 .9987   .9993 .9989   .9981 .9968   .9983 .9939   <- this module
    qkv and up with fixed steps                .9992 .9987   .9992 .9987   .9980 .9968   .9979 .9925
    qkv, up and out with fixed steps           .9991 .9986   .9991 .9986   .9979 .9959   .9976 .9905

Both inputs that come out of a LayerNorm have outlier channels, and smoothing pays there. The attention's output gains
nothing by it, and GELU's output does better with its own zero point (see `linears`) than smoothed. Fixed steps for
the input of query, key and value lose nothing, not even on strings that are no language, and save a tenth of the
nodes; they would hold for the others at a small price.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from engine.build.bert_graph import write_graph
from engine.build.bert_weights import BertWeights
from engine.build.calibration import activation_peaks
from engine.build.linears import Fp32Linears, Int8Linears, fixed_steps, smoothing_scale
from engine.build.running import open_graph
from engine.bundle import Pooling
from engine.protocol import Float32Array, Int32Array

ALPHA = 0.7  # SmoothQuant's, for inputs with a scale per token
FIXED_ALPHA = 0.8  # and for inputs with fixed steps, which lean more on the weights
FIXED_MARGIN = 1.05  # of the steps, over what calibration has seen


@dataclass(frozen=True, slots=True)
class Head:
    """What comes after the encoder."""

    pooling: Pooling
    normalize: bool


def write_fp32(weights: BertWeights, head: Head) -> onnx.ModelProto:
    """The FP32 graph."""
    return write_graph(weights, Fp32Linears(), head.pooling, head.normalize)


def write_int8(weights: BertWeights, head: Head, texts: Sequence[Int32Array], alpha: float = ALPHA) -> onnx.ModelProto:
    """The INT8 graph, smoothed with what `texts` show of the activations."""
    observed = write_graph(weights, Fp32Linears(observe=True), head.pooling, head.normalize)
    peaks = activation_peaks(open_graph(observed), texts)
    smoothing: dict[str, Float32Array] = {}
    steps: dict[str, Float32Array] = {}
    for index, layer in enumerate(weights.layers):
        qkv, up = f"layer.{index}.qkv", f"layer.{index}.up"
        attention = np.concatenate([layer.query.weight, layer.key.weight, layer.value.weight], axis=1)
        steps[qkv] = fixed_steps(peaks[qkv], attention, FIXED_ALPHA, FIXED_MARGIN)
        smoothing[up] = smoothing_scale(peaks[up], layer.up.weight, alpha)
    return write_graph(weights, Int8Linears(smoothing, steps), head.pooling, head.normalize)
