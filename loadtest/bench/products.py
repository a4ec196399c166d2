"""The engine's graph against its INT8 matrix products alone: what all else in it costs, by length of the texts.

The products alone are a graph with the same operators, weights and session options. Their activations are the ones
that the whole graph computes for the same texts, so shapes and values are equal too. Both run in one child process on
the servers' core, by turns; takes a ProductsTask as JSON on stdin, prints two lists of Measurements for each shape.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper

from loadtest.bench.generator import Measurement
from loadtest.bench.graph import START_S, Feed, feed_for, open_graph
from loadtest.bench.options import SEED, Bench, server_options
from loadtest.bench.processes import BenchmarkError, run_pinned
from loadtest.bench.rounds import Contender, Outcome, Ratio, Result
from loadtest.bench.stack import check_bundle
from loadtest.display import step
from loadtest.figures import percentile

OPERATORS: Final = ("MatMulIntegerToFloat", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul")
LENGTHS: Final = (16, 64, 128, 256)
TOKENS: Final = 512  # of a run of many texts
WARMUP_RUNS: Final = 3
FIRST_ID, LAST_ID = 1000, 20_000  # token ids that are words

ACTIVATION_TYPES: Final = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
FLOATS: Final = {np.dtype(np.float32): TensorProto.FLOAT}
TYPES: Final = ACTIVATION_TYPES | FLOATS


@dataclass(frozen=True, slots=True)
class Shape:
    """So many texts of so many tokens in one run."""

    texts: int
    length: int

    @property
    def whole(self) -> str:
        """The name of the whole graph on it."""
        return f"graph, {self.texts} x {self.length} tokens"

    @property
    def products(self) -> str:
        """The name of its products."""
        return f"its INT8 products, {self.texts} x {self.length} tokens"


FULL: Final = tuple(Shape(TOKENS // length, length) for length in LENGTHS)
ALONE: Final = tuple(Shape(1, length) for length in LENGTHS)
RATIOS: Final = (
    *(
        Ratio(f"graph / its INT8 products, {s.length} tokens", s.whole, s.products, 0.7, dot_products_only=True)
        for s in FULL
    ),
    *(Ratio(f"graph / its INT8 products, a lone text of {s.length} tokens", s.whole, s.products) for s in ALONE),
)


@dataclass(frozen=True, slots=True)
class ProductsTask:
    """Run the graph of `bundle` and its products for `seconds` each, on every shape, `rounds` times over."""

    bundle: str
    shapes: list[tuple[int, int]]
    rounds: int
    seconds: float

    def measure(self, core: int | None) -> list[list[list[Measurement]]]:
        """By shape, then whole and products, then round; in a child process on `core`. Raises BenchmarkError."""
        command = (sys.executable, "-m", "loadtest.bench.products")
        limit_s = 20 * len(self.shapes) * self.rounds * self.seconds + START_S
        found = orjson.loads(run_pinned(command, orjson.dumps(asdict(self)), core, limit_s))
        return [[[Measurement(**one) for one in rounds] for rounds in both] for both in found]


@click.command("products")
@click.option(
    "--seconds", default=0.5, show_default=True, type=click.FloatRange(0.05), help="Of each round, shape and graph."
)
@server_options
def products(bench: Bench) -> Sequence[Result]:
    """The engine's graph against its INT8 matrix products alone, at 16, 64, 128 and 256 tokens.

    Both run on --core, one thread, by turns. A ratio of 0.7 says that 70 % of the graph's time is in its products. Runs
    are of 512 tokens, for which there is an aim on CPUs with VNNI, and of lone texts.
    """
    shapes = [*FULL, *ALONE]
    task = ProductsTask(
        str(check_bundle(bench.bundle)), [(one.texts, one.length) for one in shapes], bench.rounds, bench.seconds
    )
    with step(bench.console, "running the graph and its products"):
        measured = task.measure(bench.core)
    outcomes = {}
    for shape, both in zip(shapes, measured, strict=True):
        for name, rounds in zip((shape.whole, shape.products), both, strict=True):
            outcomes[name] = Outcome(Contender(name, lambda: rounds[0], shape.texts), rounds)  # noqa: B023  # not called
    return [Result("The graph against its INT8 products alone, one thread", bench.machine, outcomes, RATIOS)]


def drive(task: ProductsTask) -> list[list[list[Measurement]]]:
    """Run one task in this process. Raises BenchmarkError for a graph without INT8 products."""
    path = Path(task.bundle) / "model.onnx"
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    if not nodes:
        raise BenchmarkError(f"{path} has no INT8 products: build it with --precision int8")
    whole = open_graph(path, 1)
    names = [entry.name for entry in whole.get_inputs()]
    found: list[list[list[Measurement]]] = []
    alone, widths = None, activations_of(model)
    draw = np.random.default_rng(SEED)
    for texts, length in task.shapes:
        feed = feed_for(names, draw.integers(FIRST_ID, LAST_ID, (texts, length)).tolist())
        given = compute_activations(model, widths, feed)
        if alone is None:
            alone = open_graph(products_alone(model, given).SerializeToString(), 1)
        pairs = ((whole, feed), (alone, given))
        for session, entries in pairs:
            for _ in range(WARMUP_RUNS):
                session.run(None, entries)
        rounds = [[timed(session, entries, task.seconds) for session, entries in pairs] for _ in range(task.rounds)]
        found.append([list(one) for one in zip(*rounds, strict=True)])
    return found


def activations_of(model: onnx.ModelProto) -> list[str]:
    """Names of the values that the products get from the rest of the graph, in order, each once."""
    constants = {one.name for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    return list(dict.fromkeys(name for node in nodes for name in node.input if name and name not in constants))


def compute_activations(model: onnx.ModelProto, names: Sequence[str], feed: Feed) -> Feed:
    """What the whole graph computes for these values, each with its own dtype and shape."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_graph(extended.SerializeToString(), 1)
    return dict(zip(names, session.run(list(names), feed), strict=True))


def products_alone(model: onnx.ModelProto, activations: Feed) -> onnx.ModelProto:
    """The model's products and nothing else. Of each product one row leaves the graph.

    With whole products as outputs none of their memory could be used again, which the whole graph does.
    """
    nodes, outputs = [], []
    row = helper.make_tensor("first_row", TensorProto.INT64, [], [0])
    for node in model.graph.node:
        if node.op_type in OPERATORS:
            kept = f"{node.output[0]}.row"
            nodes += [node, helper.make_node("Gather", [node.output[0], row.name], [kept])]
            outputs.append(onnx.ValueInfoProto(name=kept))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "products",
        [
            helper.make_tensor_value_info(name, TYPES[array.dtype], [None] * array.ndim)
            for name, array in activations.items()
        ],
        outputs,
        [row, *(one for one in model.graph.initializer if one.name in used)],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def timed(session: Any, feed: Feed, seconds: float) -> Measurement:
    """Run again and again for so long, all in CPU time, which others lengthen less; `rate` is in runs a second."""
    latencies_s: list[float] = []
    start = now = time.process_time()
    while now - start < seconds:
        session.run(None, feed)
        before, now = now, time.process_time()
        latencies_s.append(now - before)
    ordered = sorted(latencies_s)
    p50, p99 = (1000 * percentile(ordered, percent) for percent in (50, 99))
    return Measurement(len(ordered) / (now - start), p50, p99)


def main() -> None:
    """Read a ProductsTask on stdin, print what was measured."""
    try:
        found = drive(ProductsTask(**orjson.loads(sys.stdin.buffer.read())))
    except BenchmarkError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(orjson.dumps([[[asdict(one) for one in rounds] for rounds in both] for both in found]))


if __name__ == "__main__":
    main()
