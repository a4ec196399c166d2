"""Measures how much memory a bundle needs to run, in a process of its own.

    python -m engine.model.measure_memory BUNDLE THREADS DEVICE

Opens the bundle as the engine does, runs batches of mixed lengths and prints resident bytes as JSON. No server
runs: what is measured is Python, ONNX Runtime, the weights and their working memory.
"""

import json
import sys
from pathlib import Path
from typing import cast

import numpy as np
import psutil

from engine.model.session import Model, open_model
from engine.model.topology import Topology
from engine.settings import Device

RUNS = 60
BATCH_TOKENS = 1000  # what the engine fills a batch with on a CPU


def main() -> None:
    """Measure, and print `{"resident_bytes": n, "before_bytes": n}`: after the runs, and before the bundle."""
    bundle, threads, device = sys.argv[1:4]
    before = _resident_bytes()
    topology = Topology(cores=float(threads), sessions=1, threads=int(threads))
    model = open_model(Path(bundle), cast(Device, device), topology, allow_unverified=True, allow_batch_dependent=True)
    _run_mixed(model)
    print(json.dumps({"resident_bytes": _resident_bytes(), "before_bytes": before}))


def _run_mixed(model: Model) -> None:
    """Batches of one length each, all lengths from the shortest to BATCH_TOKENS in a random order; then the limit."""
    rng = np.random.default_rng(0)
    limit = model.bundle.max_tokens
    longest = min(limit, BATCH_TOKENS)
    lengths = rng.permutation(np.linspace(min(8, longest), longest, RUNS).astype(int)).tolist()
    for length in [*lengths, limit] if limit > longest else lengths:
        rows = max(1, BATCH_TOKENS // int(length))
        ids = rng.integers(0, model.bundle.vocab_size, (rows, int(length)), dtype=np.int32)
        model.runs[0](list(ids))


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
