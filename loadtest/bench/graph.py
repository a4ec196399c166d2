"""The engine's own graph called in a loop, with no queue and no HTTP: the ceiling that the engine is held against.

Runs in a child process on the servers' core: takes a GraphTask as JSON on stdin, prints a Measurement as JSON.
Texts come tokenised. Two forms of graph are known by their inputs: the engine's, which takes packed tokens (see
engine/feeds.py), and the usual one, which takes ids and mask padded to the longest text.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import orjson
from tokenizers import Tokenizer

from engine.feeds import feeds
from engine.model.cpu_session import open_cpu_session
from loadtest.bench.generator import Measurement
from loadtest.bench.processes import run_pinned
from loadtest.bench.wire import batches
from loadtest.figures import percentile

START_S = 300.0  # what loading a graph, and the last pass, may take besides the measuring time
WARMUP_RUNS = 10

Feed = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class GraphTask:
    """Run the graph of `bundle` over `input_ids`, `batch` texts at a time, again and again for `seconds`."""

    bundle: str
    input_ids: list[list[int]]
    batch: int
    seconds: float

    def measure(self, core: int | None) -> Measurement:
        """Run in a child process on `core`. Raises BenchmarkError."""
        command = (sys.executable, "-m", "loadtest.bench.graph")
        output = run_pinned(command, orjson.dumps(asdict(self)), core, self.seconds + START_S)
        return Measurement(**orjson.loads(output))


def open_graph(graph: Path | bytes, threads: int) -> ort.InferenceSession:
    """A session as the engine opens its own."""
    return open_cpu_session(graph, threads)


def tokenize(bundle: Path, texts: Sequence[str]) -> list[list[int]]:
    """Token ids as the bundle's own tokenizer gives them, truncated, not padded."""
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def feed_for(graph_inputs: Sequence[str], input_ids: Sequence[Sequence[int]]) -> Feed:
    """One batch of B texts as the graph takes it."""
    if "slots" in graph_inputs:
        return feeds([np.array(ids, dtype=np.int32) for ids in input_ids])
    return padded(input_ids)


def padded(input_ids: Sequence[Sequence[int]]) -> Feed:
    """Ids and mask, int64[B, longest]."""
    mask = _token_places(input_ids).astype(np.int64)
    ids = np.zeros_like(mask)
    ids[mask == 1] = np.concatenate(input_ids)
    return {"input_ids": ids, "attention_mask": mask}


def _token_places(input_ids: Sequence[Sequence[int]]) -> npt.NDArray[np.bool_]:
    """bool[B, longest]: where the padded form has a token."""
    lengths = np.array([len(ids) for ids in input_ids], dtype=np.int32)
    places: npt.NDArray[np.bool_] = np.arange(lengths.max(), dtype=np.int32) < lengths[:, None]
    return places


def drive(task: GraphTask) -> Measurement:
    """Run one task in this process, in whole passes over the texts, since batches may be sorted by length.

    `rate` is in full batches a second.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    session = open_graph(Path(task.bundle) / "model.onnx", threads)
    inputs = [entry.name for entry in session.get_inputs()]
    given = [feed_for(inputs, group) for group in batches(task.input_ids, task.batch)]
    for feed in (given * WARMUP_RUNS)[:WARMUP_RUNS]:
        session.run(None, feed)
    latencies_s: list[float] = []
    start = now = time.perf_counter()
    while now - start < task.seconds:
        for feed in given:
            session.run(None, feed)
            before, now = now, time.perf_counter()
            latencies_s.append(now - before)
    texts = len(task.input_ids) * len(latencies_s) // len(given)
    ordered = sorted(latencies_s)
    p50, p99 = (1000 * percentile(ordered, percent) for percent in (50, 99))
    return Measurement(texts / (now - start) / task.batch, p50, p99)


def main() -> None:
    """Read a GraphTask on stdin, print a Measurement."""
    task = GraphTask(**orjson.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(orjson.dumps(asdict(drive(task))))


if __name__ == "__main__":
    main()
