"""CTranslate2 with weights in INT8."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from usual_graph import Tokenized, pool

PACKAGES = ("ctranslate2",)
MODEL = "ct2-int8"


class Encoder:
    """CTranslate2's own encoder, one thread."""

    def __init__(self, options: dict[str, Any]) -> None:
        ctranslate2 = importlib.import_module("ctranslate2")
        folder = Path(options["folder"]) / MODEL
        self._encoder = ctranslate2.Encoder(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=1
        )
        self._tokenized, self._checkpoint = Tokenized(options), options["checkpoint"]
        self.files = [folder / "model.bin"]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        given = self._tokenized(texts)
        mask = given["attention_mask"]
        ids = [row[: int(length)].tolist() for row, length in zip(given["input_ids"], mask.sum(axis=1), strict=True)]
        hidden = np.array(self._encoder.forward_batch(ids).last_hidden_state)
        return pool(hidden, mask, self._checkpoint)


def prepare(options: dict[str, Any]) -> None:
    """Convert; once."""
    folder = Path(options["folder"]) / MODEL
    if not (folder / "model.bin").is_file():
        converters = importlib.import_module("ctranslate2.converters")
        converters.TransformersConverter(options["checkpoint"]).convert(str(folder), quantization="int8", force=True)


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)
