"""This project's engine in process: its tokenizer and its graph, without queue and HTTP."""

from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import GRAPH_FILE
from engine.model.session import open_model
from engine.model.topology import Topology
from engine.text_encoder import TextEncoder

PACKAGES = ("dejavec", "onnxruntime")


class Encoder:
    """A bundle opened as the engine opens it, one session of one thread."""

    def __init__(self, options: dict[str, Any]) -> None:
        bundle = Path(options["bundle"])
        self._model = open_model(bundle, "cpu", Topology(cores=1.0, sessions=1, threads=1))
        self._encoder = TextEncoder(self._model.tokenizer_json, self._model.bundle.max_tokens)
        self.files = [bundle / GRAPH_FILE]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        return self._model.runs[0]([np.frombuffer(one.input_ids, "<i4") for one in self._encoder.encode(texts)])


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)
