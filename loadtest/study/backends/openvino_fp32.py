"""OpenVINO, FP32: the same exported graph."""

import importlib
from pathlib import Path
from typing import Any

from usual_graph import FP32, Tokenized, export, pool

PACKAGES = ("openvino",)
ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
FP32_HINT = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenvinoEncoder:
    """A graph compiled for one thread of the CPU."""

    def __init__(self, graph: Path, options: dict[str, Any], files: list[Path]) -> None:
        core = importlib.import_module("openvino").Core()
        self._compiled = core.compile_model(str(graph), "CPU", ONE_THREAD | FP32_HINT)
        self._inputs = [one.get_any_name() for one in self._compiled.inputs]
        self._tokenized, self._checkpoint = Tokenized(options), options["checkpoint"]
        self.files = files

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        given = self._tokenized(texts)
        hidden = self._compiled({name: given[name] for name in self._inputs})[self._compiled.output(0)]
        return pool(hidden, given["attention_mask"], self._checkpoint)


def prepare(options: dict[str, Any]) -> None:
    """Export."""
    export(options)


def load(options: dict[str, Any]) -> OpenvinoEncoder:
    """See worker.py."""
    graph = Path(options["folder"]) / FP32
    return OpenvinoEncoder(graph, options, [graph])
