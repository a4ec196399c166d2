"""Measures what a bundle computes with one thread, in a process of its own.

    python -m engine.model.measure_speed BUNDLE

Prints `{"tokens_per_s": n}`: of the best of a few runs of one batch. `dejavec up` shares the machine's cores among
several models by it.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from engine.model.session import open_model
from engine.model.topology import Topology

RUNS = 5
BATCH_TOKENS = 512


def main() -> None:
    """Measure, and print."""
    topology = Topology(cores=1.0, sessions=1, threads=1)
    model = open_model(Path(sys.argv[1]), "auto", topology, allow_unverified=True, allow_batch_dependent=True)
    length = min(64, model.bundle.max_tokens)
    rows = BATCH_TOKENS // length
    rng = np.random.default_rng(0)
    texts = list(rng.integers(0, model.bundle.vocab_size, (rows, length), dtype=np.int32))
    best_s = float("inf")
    for _ in range(RUNS):
        started = time.perf_counter()
        model.runs[0](texts)
        best_s = min(best_s, time.perf_counter() - started)
    print(json.dumps({"tokens_per_s": rows * length / best_s}))


if __name__ == "__main__":
    main()
