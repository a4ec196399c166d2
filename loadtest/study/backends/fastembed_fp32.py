"""fastembed on the checkpoint in FP32: ONNX Runtime behind fastembed's own tokenising, padding and pooling."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from usual_graph import export

PACKAGES = ("fastembed", "onnxruntime")
MODEL = "model"
NAME = "sentence-transformers/all-MiniLM-L6-v2"  # its entry for models of mean pooling; the files are the checkpoint's
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Encoder:
    """fastembed's TextEmbedding in this process, one thread."""

    def __init__(self, options: dict[str, Any]) -> None:
        folder = Path(options["folder"]) / MODEL
        self._model = importlib.import_module("fastembed").TextEmbedding(
            NAME, specific_model_path=str(folder), threads=1, local_files_only=True
        )
        self.files = [folder / "model.onnx"]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        return np.array(list(self._model.embed(texts, batch_size=len(texts))), dtype=np.float32)


def prepare(options: dict[str, Any]) -> None:
    """A folder as fastembed reads it; once."""
    folder = Path(options["folder"]) / MODEL
    if (folder / "model.onnx").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(Path(options["checkpoint"]) / name, folder / name)
    limit = {"model_max_length": options["max_tokens"]}
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")) | limit
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    export(options).rename(folder / "model.onnx")


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options)
