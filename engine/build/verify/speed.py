"""How fast a graph runs, what part of it is its INT8 products, and what it takes in memory and on the disk.

A run of one thread is timed in that thread's CPU time, so that other processes on the machine do not decide; with
more threads, or on a GPU, in wall time. Of several rounds the best counts.
"""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import orjson

from engine.build.graph.onnx_writer import GraphWriter, all_nodes
from engine.build.running import open_graph
from engine.build.verify.embedding import Runs, padding_share
from engine.build.verify.tables import VerificationError
from engine.feeds import Run
from engine.protocol import Int32Array
from engine.settings import Device

SHAPES = (
    (1, 16), (8, 16), (32, 16), (1, 64), (8, 64), (1, 256), (2, 256), (4, 256), (1, 512), (1, 2048),
)  # fmt: skip  # batch, tokens a text
PRODUCT_SHAPES = ((32, 16), (8, 64), (2, 256), (4, 256))
LEAST_ROUNDS = 5
MOST_ROUNDS = 200
ROUND_S = 0.3  # of each graph at each shape, in all rounds together
INTEGER_PRODUCTS = ("MatMulInteger", "MatMulIntegerToFloat")
ZERO_POINT = 128
PADDING_TEXTS = 1000
PADDING_LENGTHS = (8, 256)
MEMORY_TIMEOUT_S = 900.0  # a text of 8,192 tokens alone takes a minute with a large model

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of each graph for `batch` texts of `tokens` tokens."""

    batch: int
    tokens: int
    tokens_per_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class ProductShare:
    """The graph's tokens/s, and what its integer products alone would give, each timed by itself."""

    batch: int
    tokens: int
    graph_tokens_per_s: float
    products_tokens_per_s: float

    @property
    def share(self) -> float:
        """1 would be a graph that does nothing but multiply."""
        return self.graph_tokens_per_s / self.products_tokens_per_s


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a fresh process, before the bundle was opened and after runs of mixed lengths."""

    resident_bytes: int
    before_bytes: int


def choose_clock(threads: int, device: str) -> tuple[Clock, str]:
    """The clock and its name."""
    if threads == 1 and device == "cpu":
        return time.thread_time, "CPU time"
    return time.perf_counter, "wall time"


def measure_speed(
    runs: Runs, shapes: Sequence[tuple[int, int]], max_tokens: int, vocab: int, clock: Clock
) -> list[Speed]:
    """Tokens a second at each shape that the model takes."""
    measured = []
    for batch, tokens in shapes:
        if tokens > max_tokens:
            continue
        texts = random_texts([tokens] * batch, vocab)
        calls = {name: _bound(run, texts) for name, run in runs.items()}
        best_s = best_times(calls, clock)
        measured.append(Speed(batch, tokens, {name: batch * tokens / best_s[name] for name in runs}))
    return measured


def measure_products(graph: Path, run: Run, max_tokens: int, vocab: int, clock: Clock) -> list[ProductShare]:
    """The graph against the sum of its own integer products, on one thread; empty for a graph without any."""
    shapes = integer_products(graph)
    measured = []
    for batch, tokens in PRODUCT_SHAPES if shapes else ():
        if tokens > max_tokens:
            continue
        rows = batch * tokens
        calls = {f"{inputs}x{outputs}": _product(rows, inputs, outputs) for inputs, outputs in shapes}
        best_s = best_times({"graph": _bound(run, random_texts([tokens] * batch, vocab)), **calls}, clock)
        products_s = sum(best_s[f"{inputs}x{outputs}"] * count for (inputs, outputs), count in shapes.items())
        measured.append(ProductShare(batch, tokens, rows / best_s["graph"], rows / products_s))
    return measured


def integer_products(graph: Path) -> Counter[tuple[int, int]]:
    """How many products with a constant int8 matrix of each shape [inputs, outputs] the graph has."""
    content = onnx.load(graph, load_external_data=False).graph
    shapes = {constant.name: tuple(constant.dims) for constant in content.initializer}
    found: Counter[tuple[int, int]] = Counter()
    for node in all_nodes(content):
        if node.op_type in INTEGER_PRODUCTS and len(shape := shapes.get(node.input[1], ())) == 2:
            found[shape[0], shape[1]] += 1
    return found


def best_times(calls: Mapping[str, Callable[[], object]], clock: Clock) -> dict[str, float]:
    """The best time of each call in seconds; calls take turns, so that a slow moment meets all of them."""
    best_s = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    started_s = time.perf_counter()
    for n_done in range(MOST_ROUNDS):
        if n_done >= LEAST_ROUNDS and time.perf_counter() - started_s > ROUND_S * len(calls):
            break
        for name, call in calls.items():
            before_s = clock()
            call()
            best_s[name] = min(best_s[name], max(clock() - before_s, 1e-9))
    return best_s


def mixed_padding_share(max_tokens: int, vocab: int) -> float:
    """Padding when 1,000 texts of 8 to 256 tokens wait at once and are batched by the engine's own rule."""
    shortest, longest = (min(length, max_tokens) for length in PADDING_LENGTHS)
    lengths = np.random.default_rng(0).integers(shortest, longest + 1, PADDING_TEXTS)
    return padding_share(random_texts(lengths.tolist(), vocab))


def random_texts(lengths: Sequence[int], vocab: int) -> list[Int32Array]:
    """Random token ids, the same each time."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocab, length, dtype=np.int32) for length in lengths]


def measure_memory(folder: Path, threads: int, device: Device) -> Memory:
    """Run the bundle in a fresh process. Raises VerificationError."""
    command = [sys.executable, "-m", "engine.model.measure_memory", str(folder), str(threads), device]
    try:
        child = subprocess.run(command, capture_output=True, check=True, timeout=MEMORY_TIMEOUT_S)  # noqa: S603  # a list
        return Memory(**orjson.loads(child.stdout))
    except subprocess.CalledProcessError as error:
        raise VerificationError(f"the memory measurement failed: {error.stderr.decode()[-500:]}") from None
    except (OSError, subprocess.TimeoutExpired, orjson.JSONDecodeError) as error:
        raise VerificationError(f"the memory measurement failed: {error}") from None


def _bound(run: Run, texts: Sequence[Int32Array]) -> Callable[[], object]:
    return lambda: run(texts)


def _product(rows: int, inputs: int, outputs: int) -> Callable[[], object]:
    """One product uint8[rows, inputs] x int8[inputs, outputs], ready to run on one thread."""
    rng = np.random.default_rng(0)
    graph = GraphWriter("product")
    a = graph.input("a", np.uint8, ["rows", inputs])
    weight = graph.constant("weight", rng.integers(-127, 128, (inputs, outputs), dtype=np.int8))
    zero_point = graph.constant("zero_point", np.array(ZERO_POINT, dtype=np.uint8))
    graph.output(graph.op("MatMulInteger", a, weight, zero_point), "y", np.int32, ["rows", outputs])
    run, given = open_graph(graph.model(), threads=1), rng.integers(0, 256, (rows, inputs), dtype=np.uint8)
    return lambda: run({"a": given})
