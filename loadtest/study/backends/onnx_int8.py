"""ONNX Runtime, the usual dynamic INT8: `quantize_dynamic`, one scale for each weight channel."""

import importlib
from pathlib import Path
from typing import Any

from usual_graph import OnnxEncoder, export

PACKAGES = ("onnxruntime",)
GRAPH = "dynamic_int8.onnx"


def prepare(options: dict[str, Any]) -> None:
    """Export and quantise; once."""
    graph = Path(options["folder"]) / GRAPH
    if not graph.is_file():
        partial = graph.with_suffix(".partial")
        importlib.import_module("onnxruntime.quantization").quantize_dynamic(export(options), partial, per_channel=True)
        partial.rename(graph)


def load(options: dict[str, Any]) -> OnnxEncoder:
    """See worker.py."""
    return OnnxEncoder(Path(options["folder"]) / GRAPH, options)
