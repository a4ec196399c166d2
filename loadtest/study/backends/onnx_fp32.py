"""ONNX Runtime, FP32: the checkpoint through PyTorch's exporter."""

from pathlib import Path
from typing import Any

from usual_graph import FP32, OnnxEncoder, export

PACKAGES = ("onnxruntime",)


def prepare(options: dict[str, Any]) -> None:
    """Export."""
    export(options)


def load(options: dict[str, Any]) -> OnnxEncoder:
    """See worker.py."""
    return OnnxEncoder(Path(options["folder"]) / FP32, options)
