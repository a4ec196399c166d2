"""How a graph multiplies by a constant matrix: in FP32, observed in FP32, or in INT8. Knows no model.

INT8, for an input x of T rows (one per token) and a weight W:

    scale[t] = max_k |x[t, k]| / 127                    one per token: a text's vector cannot depend on its batch
    q[t, k]  = round(x[t, k] / scale[t]) + 128          uint8, `QuantizeLinear` with axis 0
    y[t, n]  = scale[t] * channel_scale[n] * sum_k (q[t, k] - 128) * w[k, n]

The sum is exact in int32, and `MatMulIntegerToFloat` multiplies by the channel scales while it writes it out.
An input that never falls below some number (GELU's -0.17) gets a lower zero point and so almost a bit more.
SmoothQuant (Xiao et al., 2023, eq. 4): x is divided and W multiplied by s[k] = max|x_k|^a / max|W_k|^(1-a).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.build.onnx_writer import CONTRIB, GraphWriter, Int8Array
from engine.protocol import Float32Array

ZERO_POINT = 128
LARGEST = 127.0
BOUNDED_ZERO_POINT = 16
BOUNDED_LARGEST = 255.0 - BOUNDED_ZERO_POINT
TINY = 1e-12  # a channel of zeros still needs a scale
SMOOTHING_FLOOR = 1e-5


@dataclass(frozen=True, slots=True)
class Prepared:
    """An input ready for several products: its name in the graph; for INT8 also its rows' scales [T, 1]."""

    value: str
    row_scale: str = ""
    zero_point: int = ZERO_POINT


class Linears(Protocol):
    """What a graph needs in order to multiply. `site` names an input, "layer.3.down", the same in all calls."""

    approximate_gelu: bool  # whether GELU's tanh form (3e-4 away at most) is good enough beside the rounding

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """Make `x`, float32[T, K], ready. `lowest`: no element is ever below it; None where that is not known."""
        ...

    def multiply(self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array) -> str:
        """The product float32[T, N] with `weight`, float32[K, N], called `name` at this site."""
        ...

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """The rows float32[T, H] of `table`, float32[V, H], at `indices`, int32[T]."""
        ...


class Fp32Linears:
    """Plain float32. With `observe`, the graph also returns each input's peak per channel as `peak.<site>`."""

    approximate_gelu = False

    def __init__(self, observe: bool = False) -> None:
        self._observe = observe

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """`x` itself."""
        if self._observe:
            peak = graph.op("ReduceMax", graph.op("Abs", x), graph.integers(0), keepdims=0)
            graph.output(peak, f"peak.{site}", np.float32, ["channels"])
        return Prepared(x)

    def multiply(self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array) -> str:
        """One MatMul."""
        return graph.op("MatMul", x.value, graph.constant(f"{site}.{name}", weight))

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """One Gather."""
        return graph.op("Gather", graph.constant(name, table), indices)


class Int8Linears:
    """Per-token, per-channel INT8. `smoothing` gives s, float32[K], for the sites that are smoothed."""

    approximate_gelu = True

    def __init__(self, smoothing: Mapping[str, Float32Array], rows_like: str = "input_ids") -> None:
        self._smoothing = smoothing
        self._rows_like = rows_like  # any value in the graph with the shape [T]
        self._zeros: dict[int, str] = {}

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """Smooth `x` where the site asks for it, and quantise each row with its own scale."""
        s = self._smoothing.get(site)
        if s is not None:
            assert lowest is None, "smoothing would move the bound"
            x = graph.op("Mul", x, graph.constant(f"{site}.inverse_smoothing", (1 / s).astype(np.float32)))
        zero_point, largest = (ZERO_POINT, LARGEST) if lowest is None else (BOUNDED_ZERO_POINT, BOUNDED_LARGEST)
        scale = graph.op("Mul", _row_peak(graph, x, lowest), graph.number(1 / largest))
        quantized = graph.op("QuantizeLinear", x, scale, self._zero_points(graph, zero_point), axis=0)
        return Prepared(quantized, graph.op("Unsqueeze", scale, graph.integers(1)), zero_point)

    def _zero_points(self, graph: GraphWriter, zero_point: int) -> str:
        """uint8[T], the same for all rows; written once for the graph."""
        if zero_point not in self._zeros:
            one = graph.constant(f"zero_points_{zero_point}", np.array([zero_point], dtype=np.uint8))
            self._zeros[zero_point] = graph.op("Expand", one, graph.op("Shape", self._rows_like))
        return self._zeros[zero_point]

    def multiply(self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array) -> str:
        """MatMulIntegerToFloat with the channel scales, then the row scales."""
        s = self._smoothing.get(site)
        quantized, channel_scale = quantize_channels(weight if s is None else weight * s[:, None])
        product = graph.op(
            "MatMulIntegerToFloat",
            x.value,
            graph.constant(f"{site}.{name}", quantized),
            graph.number(1.0),
            graph.constant(f"{site}.{name}.channel_scale", channel_scale),
            graph.constant(f"zero_point_{x.zero_point}", np.array(x.zero_point, dtype=np.uint8)),
            domain=CONTRIB,
        )
        return graph.op("Mul", product, x.row_scale)

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """Gather of int8 rows and of their scales: a quarter of the table's memory."""
        quantized, scale = quantize_channels(np.ascontiguousarray(table.T))
        rows = graph.op("Gather", graph.constant(name, np.ascontiguousarray(quantized.T)), indices)
        scales = graph.op("Gather", graph.constant(f"{name}.row_scale", scale[:, None]), indices)
        return graph.op("Mul", graph.cast(rows, np.float32), scales)


def _row_peak(graph: GraphWriter, x: str, lowest: float | None) -> str:
    """The largest magnitude of each row, [T]; with a bound, the scale must reach down to it as well.

    A row of zeros has the scale 0: whatever it is quantised to, its product is multiplied by 0 again.
    """
    if lowest is None:
        return graph.op("ReduceMax", graph.op("Abs", x), graph.integers(1), keepdims=0)
    top = graph.op("ReduceMax", x, graph.integers(1), keepdims=0)
    return graph.op("Max", top, graph.number(-lowest * BOUNDED_LARGEST / BOUNDED_ZERO_POINT))


def quantize_channels(weight: Float32Array) -> tuple[Int8Array, Float32Array]:
    """Symmetric int8 per column: float32[K, N] -> int8[K, N] in -127..127 and float32[N], the columns' scales."""
    scale = (np.maximum(np.abs(weight).max(axis=0), TINY) / LARGEST).astype(np.float32)
    return np.clip(np.rint(weight / scale), -LARGEST, LARGEST).astype(np.int8), scale


def smoothing_scale(peak: Float32Array, weight: Float32Array, alpha: float) -> Float32Array:
    """SmoothQuant's s, float32[K], from the input's peaks, float32[K], and the weight it meets, float32[K, N]."""
    weight_peak = np.maximum(np.abs(weight).max(axis=1), SMOOTHING_FLOOR)
    s = np.maximum(peak, SMOOTHING_FLOOR) ** alpha / weight_peak ** (1 - alpha)
    return np.asarray(np.maximum(s, SMOOTHING_FLOOR), dtype=np.float32)
