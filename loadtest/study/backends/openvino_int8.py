"""OpenVINO with NNCF's static INT8, calibrated on the study's calibration texts, for a transformer."""

import importlib
from pathlib import Path
from typing import Any

from openvino_fp32 import OpenvinoEncoder
from usual_graph import Tokenized, export

PACKAGES = ("openvino", "nncf")
GRAPH = "static_int8.xml"


def prepare(options: dict[str, Any]) -> None:
    """Export and quantise; once."""
    graph = Path(options["folder"]) / GRAPH
    if graph.is_file():
        return
    nncf, openvino = importlib.import_module("nncf"), importlib.import_module("openvino")
    model = openvino.Core().read_model(str(export(options)))
    tokenized, names = Tokenized(options), [one.get_any_name() for one in model.inputs]
    given = [{name: tokenized([text])[name] for name in names} for text in options["calibration"]]
    quantized = nncf.quantize(model, nncf.Dataset(given), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(given))
    openvino.save_model(quantized, str(graph), compress_to_fp16=False)


def load(options: dict[str, Any]) -> OpenvinoEncoder:
    """See worker.py."""
    graph = Path(options["folder"]) / GRAPH
    return OpenvinoEncoder(graph, options, [graph, graph.with_suffix(".bin")])
