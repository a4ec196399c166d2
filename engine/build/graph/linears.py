"""How a graph multiplies by a constant matrix: in FP32, observed in FP32, or in INT8.

INT8, for an input x of T rows (one per token) and a weight W:

    scale[t] = max_k |x[t, k]| / 127                    one per token: a text's vector cannot depend on its batch
    q[t, k]  = round(x[t, k] / scale[t]) + 128          uint8, `QuantizeLinear` with axis 0
    y[t, n]  = scale[t] * channel_scale[n] * sum_k (q[t, k] - 128) * w[k, n]

The sum is exact in int32 on every CPU, because weights are rounded within the bounds of `engine.build.graph.rounding`,
and `MatMulIntegerToFloat` multiplies by the channel scales while it writes it out.
An input that never falls below some number (GELU's -0.17) gets a lower zero point and so almost a bit more.
An input whose range is known well enough can have fixed steps instead, one per channel: no peak to look for, no row
scale to multiply by, and the bias is added on the way out.
SmoothQuant (Xiao et al., 2023, eq. 4): x is divided and W multiplied by s[k] = max|x_k|^a / max|W_k|^(1-a).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.build.graph.onnx_writer import CONTRIB, GraphWriter, Int8Array
from engine.build.graph.rounding import GPTQ_PAIRS, Rounding, round_weight
from engine.protocol import Float32Array

ZERO_POINT = 128
LARGEST = 127.0
BOUNDED_ZERO_POINT = 24  # 12 to 32 differ little on MiniLM; at 8 the coarser steps cost .0001 of cosine
BOUNDED_LARGEST = 255.0 - BOUNDED_ZERO_POINT
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
    in_loops: bool  # whether products may stand in a loop's body

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """Make `x`, float32[T, K], ready. `lowest`: no element is ever below it; None where that is not known."""
        ...

    def multiply(
        self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array, bias: Float32Array | None
    ) -> str:
        """float32[T, N]: the product with `weight`, float32[K, N], called `name` at this site, plus a bias."""
        ...

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """The rows float32[T, H] of `table`, float32[V, H], at `indices`, int32[T]."""
        ...


class Fp32Linears:
    """Plain float32. With `observe`, the graph also returns each input, float32[T, K], as `input.<site>`."""

    approximate_gelu = False

    def __init__(self, observe: bool = False) -> None:
        self._observe = observe
        self.in_loops = not observe

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """`x` itself."""
        if self._observe:
            graph.output(x, f"input.{site}", np.float32, ["tokens", "channels"])
        return Prepared(x)

    def multiply(
        self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array, bias: Float32Array | None
    ) -> str:
        """MatMul and Add."""
        product = graph.op("MatMul", x.value, graph.constant(f"{site}.{name}", weight))
        return _add(graph, product, site, name, bias)

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """One Gather."""
        return graph.op("Gather", graph.constant(name, table), indices)


class Int8Linears:
    """INT8 with per-channel weights. An input is smoothed where `smoothing` has its s, float32[K]; it is quantised
    with a step per channel, float32[K], where `fixed_steps` has one, and else with a scale per token.

    `grams`: sum of x x^T of each site's input over calibration tokens, float32[K, K], for GPTQ; a site without one is
    rounded to the nearest. `on_round` is called with each site as its weights are rounded.
    """

    approximate_gelu = True
    in_loops = True

    def __init__(
        self,
        smoothing: Mapping[str, Float32Array],
        fixed_steps: Mapping[str, Float32Array] | None = None,
        grams: Mapping[str, Float32Array] | None = None,
        rounding: Rounding = GPTQ_PAIRS,
        on_round: Callable[[str], None] = lambda _: None,
        rows_like: str = "input_ids",
    ) -> None:
        self._channel_factors = {**smoothing, **(fixed_steps or {})}
        self._fixed = frozenset(fixed_steps or ())
        self._grams = grams or {}
        self._rounding = rounding
        self._on_round = on_round
        self._rows_like = rows_like  # any value in the graph with the shape [T]
        self._zeros: dict[int, str] = {}

    def prepare(self, graph: GraphWriter, x: str, site: str, lowest: float | None = None) -> Prepared:
        """Divide by the channels' factors where the site has them, and quantise."""
        factor = self._channel_factors.get(site)
        if factor is not None:
            assert lowest is None, "the factors would move the bound"
            x = graph.op("Mul", x, graph.constant(f"{site}.inverse_factor", (1 / factor).astype(np.float32)))
        if site in self._fixed:
            return Prepared(graph.op("QuantizeLinear", x, graph.number(1.0), _zero_point(graph, ZERO_POINT)))
        zero_point, largest = (ZERO_POINT, LARGEST) if lowest is None else (BOUNDED_ZERO_POINT, BOUNDED_LARGEST)
        scale = graph.op("Mul", _row_peak(graph, x, lowest), graph.number(1 / largest))
        quantized = graph.op("QuantizeLinear", x, scale, self._zero_points(graph, zero_point, scale), axis=0)
        return Prepared(quantized, graph.op("Unsqueeze", scale, graph.integers(1)), zero_point)

    def _zero_points(self, graph: GraphWriter, zero_point: int, scale: str) -> str:
        """uint8[T], the same for all rows; written once for the graph, and in each loop's body, whose T is another."""
        one = graph.constant(f"zero_points_{zero_point}", np.array([zero_point], dtype=np.uint8))
        if graph.is_body:
            return graph.op("Expand", one, graph.op("Shape", scale))
        if zero_point not in self._zeros:
            self._zeros[zero_point] = graph.op("Expand", one, graph.op("Shape", self._rows_like))
        return self._zeros[zero_point]

    def multiply(
        self, graph: GraphWriter, x: Prepared, site: str, name: str, weight: Float32Array, bias: Float32Array | None
    ) -> str:
        """MatMulIntegerToFloat with the channel scales; then the row scales and the bias, where it cannot add it."""
        quantized, channel_scale = self._round(site, weight)
        fused_bias = bias if site in self._fixed else None
        product = graph.op(
            "MatMulIntegerToFloat",
            x.value,
            graph.constant(f"{site}.{name}", quantized),
            graph.number(1.0),
            graph.constant(f"{site}.{name}.channel_scale", channel_scale),
            _zero_point(graph, x.zero_point),
            *(() if fused_bias is None else ("", graph.constant(f"{site}.{name}.bias", fused_bias))),
            domain=CONTRIB,
        )
        if site in self._fixed:
            return product
        return _add(graph, graph.op("Mul", product, x.row_scale), site, name, bias)

    def _round(self, site: str, weight: Float32Array) -> tuple[Int8Array, Float32Array]:
        """int8[K, N] and channel scales float32[N] of a weight that meets this site's prepared input."""
        self._on_round(site)
        factor, gram = self._channel_factors.get(site), self._grams.get(site)
        if factor is not None:
            weight = weight * factor[:, None]
            gram = None if gram is None else np.asarray(gram / np.outer(factor, factor), np.float32)
        return round_weight(weight, gram, self._rounding)

    def look_up(self, graph: GraphWriter, name: str, table: Float32Array, indices: str) -> str:
        """Gather of int8 rows and of their scales: a quarter of the table's memory."""
        quantized, scale = round_weight(np.ascontiguousarray(table.T), None, Rounding(pair_limit=None))
        rows = graph.op("Gather", graph.constant(name, np.ascontiguousarray(quantized.T)), indices)
        scales = graph.op("Gather", graph.constant(f"{name}.row_scale", scale[:, None]), indices)
        return graph.op("Mul", graph.cast(rows, np.float32), scales)


def _zero_point(graph: GraphWriter, zero_point: int) -> str:
    return graph.constant(f"zero_point_{zero_point}", np.array(zero_point, dtype=np.uint8))


def _add(graph: GraphWriter, x: str, site: str, name: str, bias: Float32Array | None) -> str:
    return x if bias is None else graph.op("Add", x, graph.constant(f"{site}.{name}.bias", bias))


def _row_peak(graph: GraphWriter, x: str, lowest: float | None) -> str:
    """The largest magnitude of each row, [T]; with a bound, the scale must reach down to it as well.

    A row of zeros has the scale 0: whatever it is quantised to, its product is multiplied by 0 again.
    """
    if lowest is None:
        return graph.op("ReduceMax", graph.op("Abs", x), graph.integers(1), keepdims=0)
    top = graph.op("ReduceMax", x, graph.integers(1), keepdims=0)
    return graph.op("Max", top, graph.number(-lowest * BOUNDED_LARGEST / BOUNDED_ZERO_POINT))


def smoothing_scale(peak: Float32Array, weight: Float32Array, alpha: float) -> Float32Array:
    """SmoothQuant's s, float32[K], from the input's peaks, float32[K], and the weight it meets, float32[K, N]."""
    weight_peak = np.maximum(np.abs(weight).max(axis=1), SMOOTHING_FLOOR)
    s = np.maximum(peak, SMOOTHING_FLOOR) ** alpha / weight_peak ** (1 - alpha)
    return np.asarray(np.maximum(s, SMOOTHING_FLOOR), dtype=np.float32)


def fixed_steps(peak: Float32Array, weight: Float32Array, alpha: float, margin: float) -> Float32Array:
    """Quantisation steps per channel, float32[K]: smoothed, and `margin` times what calibration has seen fits."""
    s = smoothing_scale(peak, weight, alpha)
    return np.asarray(s * (margin * float((peak / s).max()) / LARGEST), dtype=np.float32)
