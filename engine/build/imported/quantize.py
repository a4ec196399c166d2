"""An exported FP32 graph -> INT8: the products over its tokens, by the same arithmetic as in our own graphs.

A site is treated by what it is, since an exported graph does not name its layers: what comes out of a LayerNorm has
outlier channels and is smoothed; the input of a product that narrows, a feed-forward block's second, keeps its few
largest channels in FP32. `engine.build.graph.quantize` has what each is worth.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from engine.build.graph.activations import Activations, observe
from engine.build.graph.head import Head
from engine.build.graph.linears import Fp32Linears, Int8Linears, smoothing_scale
from engine.build.graph.quantize import ALPHA, outlier_neurons
from engine.build.graph.rounding import GPTQ_PAIRS, Rounding
from engine.build.imported.exported import Exported
from engine.build.imported.products import Sites
from engine.build.imported.rewrite import Layers, write_imported
from engine.build.running import open_graph
from engine.protocol import Float32Array, Int32Array


def observe_imported(exported: Exported, pad_token_id: int, sites: Sites, texts: Sequence[Int32Array]) -> Activations:
    """What `texts` show of each site's input, padding left out."""
    layers = Layers(Fp32Linears(observe=True), sites, {})
    return observe(open_graph(write_imported(exported, pad_token_id, layers=layers)), texts)


def write_imported_int8(
    exported: Exported,
    pad_token_id: int,
    head: Head | None,
    sites: Sites,
    seen: Activations,
    rounding: Rounding = GPTQ_PAIRS,
    on_round: Callable[[str], None] = lambda _: None,
) -> onnx.ModelProto:
    """The INT8 graph; arguments as in `write_imported` and `write_int8`."""
    grams = dict(seen.grams)
    smoothing: dict[str, Float32Array] = {}
    outliers = {}
    for site in sites.all():
        peak = seen.peaks[site.name]
        if site.after_norm:
            weight = np.concatenate([product.weight for product in site.products], axis=1)
            smoothing[site.name] = smoothing_scale(peak, weight, ALPHA)
        elif site.is_narrowing:
            places = outliers[site.name] = outlier_neurons(peak)
            gram = grams[site.name] = grams[site.name].copy()
            gram[places], gram[:, places] = 0, 0
    linears = Int8Linears(smoothing, grams=grams, rounding=rounding, on_round=on_round)
    return write_imported(exported, pad_token_id, head, Layers(linears, sites, outliers))
