"""sentence-transformers on PyTorch, FP32, one thread: what most people run."""

import importlib
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "sentence-transformers", "transformers")


class Encoder:
    """The checkpoint as its authors publish it."""

    def __init__(self, options: dict[str, Any]) -> None:
        importlib.import_module("torch").set_num_threads(1)
        module = importlib.import_module("sentence_transformers")
        self._model = module.SentenceTransformer(options["checkpoint"], device="cpu", local_files_only=True)
        self._model.max_seq_length = options["max_tokens"]
        self.files = sorted(Path(options["checkpoint"]).glob("*.safetensors"))

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        return self._model.encode(
            texts, batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)
