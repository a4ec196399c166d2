"""llama.cpp through llama-cpp-python, weights as Q8_0. The folder must hold `q8_0.gguf`: see `dejavec study --help`."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("llama-cpp-python",)
MODEL = "q8_0.gguf"
CONTEXT = 16384  # tokens of one batch


class Encoder:
    """llama.cpp's encoder, one thread; it pools as the file says."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._max_tokens = options["max_tokens"]
        file = Path(options["folder"]) / MODEL
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: convert the checkpoint to it, see `dejavec study --help`")
        self._model = importlib.import_module("llama_cpp").Llama(
            str(file), embedding=True, n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT, n_threads=1,
            n_threads_batch=1, verbose=False,
        )  # fmt: skip
        self.files = [file]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        vectors = np.array(self._model.embed(texts, truncate=True), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)
