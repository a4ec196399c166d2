"""llama.cpp, weights as Q8_0: its server's engine in process by xllamacpp, or llama-cpp-python where that is installed.

The file is made of the checkpoint by gguf_bert.py. Texts of more tokens than the model's positions are refused by
llama.cpp's server, not cut; the study's own have at most 120.
"""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf_bert
import numpy as np

PACKAGES = ("xllamacpp", "llama-cpp-python", "gguf")
MODEL = "q8_0.gguf"
SLOTS = 32  # texts that are computed together
POSITIONS = 512  # of each slot, and tokens of a batch: llama.cpp's own default; others were no faster here


class Server:
    """llama.cpp's server without its HTTP, one thread; it pools as the file says and gives vectors of length 1."""

    def __init__(self, file: Path) -> None:
        xllamacpp = importlib.import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.embedding, params.warmup = True, False
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * POSITIONS
        params.n_batch = params.n_ubatch = POSITIONS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = params.n_threads_http = 1
        params.verbosity = 0
        self._server = xllamacpp.Server(params)
        self.files = [file]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        answer = json.loads(self._server.handle_embeddings(json.dumps({"input": texts, "model": "study"})))
        if "data" not in answer:
            raise RuntimeError(f"llama.cpp: {answer['error']['message']}")
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return np.array([row["embedding"] for row in rows], dtype=np.float32)


class Library:
    """llama-cpp-python's encoder, one thread."""

    def __init__(self, file: Path) -> None:
        self._model = importlib.import_module("llama_cpp").Llama(
            str(file), embedding=True, n_ctx=POSITIONS, n_batch=POSITIONS, n_ubatch=POSITIONS, n_threads=1,
            n_threads_batch=1, verbose=False,
        )  # fmt: skip
        self.files = [file]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        vectors = np.array(self._model.embed(texts, truncate=True), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def prepare(options: dict[str, Any]) -> None:
    """Convert; once."""
    file = Path(options["folder"]) / MODEL
    if not file.is_file():
        gguf_bert.write(Path(options["checkpoint"]), file)


def load(options: dict[str, Any]) -> Server | Library:
    """See worker.py."""
    file = Path(options["folder"]) / MODEL
    return Server(file) if importlib.util.find_spec("xllamacpp") else Library(file)
