"""Which exact form of the model is the fastest on this CPU: `make cpu-table`, or `python -m tests.cpus.candidates`.

Every way to round the weights is built from the default checkpoint, compared with FP32 on texts that did not
calibrate and on single words, and timed beside FP32 in one run (CPU time of one thread, best of many rounds that take
turns). `docs/cpus.md` has the tables.
"""

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime as ort

from engine.build.calibration import read_texts, with_single_words
from engine.build.checkpoint.files import WEIGHTS_FILE, default_checkpoint, open_checkpoint
from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.graph.head import Head
from engine.build.graph.quantize import observe_fp32, write_fp32, write_int8
from engine.build.graph.rounding import Rounding
from engine.build.quality import cosine_report
from engine.build.verify.embedding import embed, encode
from engine.build.verify.speed import best_times, random_texts
from engine.build.verify.tasks import measure_retrieval, measure_sts
from engine.bundle import TOKENIZER_FILE, parse_tokenizer
from engine.feeds import Run
from engine.model.cpu_session import CPU_PROVIDER, integer_products, session_options
from engine.model.session import run_of
from engine.protocol import Int32Array
from loadtest.bench.machine import describe

SHAPES = ((32, 16), (1, 16), (8, 64), (4, 256))
MAX_TOKENS = 256
WORD_STEP, WORDS = 60, 400
FP32 = "FP32"
SHIPPED = "8-bit GPTQ, bounded pairs"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to round the weights, and whether they are turned into uint8 when the graph is opened."""

    name: str
    rounding: Rounding
    unsigned: bool


CANDIDATES = (
    Candidate("8-bit nearest, no bound, int8 kernel", Rounding(pair_limit=None, gptq=False), unsigned=False),
    Candidate("8-bit nearest, uint8 kernel", Rounding(pair_limit=None, gptq=False), unsigned=True),
    Candidate("8-bit GPTQ, uint8 kernel", Rounding(pair_limit=None), unsigned=True),
    Candidate("7-bit GPTQ, int8 kernel", Rounding(largest=63, pair_limit=None), unsigned=False),
    Candidate(SHIPPED, Rounding(), unsigned=False),
)


class Printed:
    """Progress on standard output."""

    def step(self, what: str) -> None:
        """A new step begins."""
        print(f"  {what}", flush=True)

    def done(self, count: int, total: int) -> None:
        """So much of the step is done."""


def main() -> None:
    """Build, compare, time, print."""
    options = _arguments()
    checkpoint = open_checkpoint(str(default_checkpoint()))
    tokenizer = parse_tokenizer((checkpoint.folder / TOKENIZER_FILE).read_bytes(), MAX_TOKENS)
    tokenize = partial(encode, tokenizer)
    weights = read_weights(checkpoint.folder / WEIGHTS_FILE, read_shape(checkpoint.config))
    texts, head = read_texts(None), Head("mean", normalize=True)
    print(f"{describe(None, None, 'none')}\ninteger products of bounded pairs: {integer_products()}")
    seen = observe_fp32(weights, tokenize(with_single_words(texts.calibrate)))
    runs: dict[str, Run] = {FP32: _open(write_fp32(weights, head).SerializeToString(), unsigned=False)}
    for one in CANDIDATES:
        started_s = time.thread_time()
        graph = write_int8(weights, head, seen, one.rounding).SerializeToString()
        print(f"  {one.name}: written in {time.thread_time() - started_s:.1f} s of CPU time", flush=True)
        runs[one.name] = _open(graph, one.unsigned)
    sets = {"hold-out": tokenize(texts.hold_out), "words": tokenize(_words(tokenizer.get_vocab()))}
    cosines = {name: _cosines(run, runs[FP32], sets) for name, run in runs.items()}
    rates = {shape: _rates(runs, *shape) for shape in SHAPES}
    _print_table(cosines, rates)
    compared = {name: runs[name] for name in (SHIPPED, FP32)}
    for task in [
        *(measure_sts(path, tokenize, compared, Printed()) for path in options.sts),
        *(measure_retrieval(path, tokenize, compared, {}, Printed()) for path in options.retrieval),
    ]:
        print(f"{task.name}, {task.metric}: {', '.join(f'{name} {value:.2f}' for name, value in task.points.items())}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sts", type=Path, action="append", default=[], help="pairs with scores, TSV")
    parser.add_argument("--retrieval", type=Path, action="append", default=[], help="a corpus with queries, a folder")
    return parser.parse_args()


def _open(graph: bytes, unsigned: bool) -> Run:
    """One thread; weights as uint8 where asked for, whatever this machine needs."""
    return run_of(ort.InferenceSession(graph, session_options(1, unsigned), providers=[CPU_PROVIDER]))


def _words(vocabulary: dict[str, int]) -> list[str]:
    """Whole words of the tokenizer, drawn evenly from the alphabet."""
    words = sorted(word for word in vocabulary if word.isalpha() and len(word) > 3)
    return words[::WORD_STEP][:WORDS]


def _cosines(run: Run, reference: Run, sets: dict[str, list[Int32Array]]) -> dict[str, dict[str, float]]:
    return {name: cosine_report(embed(run, texts), embed(reference, texts)) for name, texts in sets.items()}


def _rates(runs: dict[str, Run], batch: int, tokens: int) -> dict[str, float]:
    """Tokens/s of each form."""
    texts = random_texts([tokens] * batch, 30_000)
    best_s = best_times({name: partial(run, texts) for name, run in runs.items()}, time.thread_time)
    return {name: batch * tokens / seconds for name, seconds in best_s.items()}


def _print_table(
    cosines: dict[str, dict[str, dict[str, float]]], rates: dict[tuple[int, int], dict[str, float]]
) -> None:
    shapes = " | ".join(f"{batch} x {tokens}" for batch, tokens in rates)
    print(f"\n| form | hold-out, cosine mean / min | single words, mean / min | tokens/s and x FP32: {shapes} |")
    print("|---|---|---|" + "---|" * len(rates))
    for name, reports in cosines.items():
        figures = [f"{report['cosine_mean']:.5f} / {report['cosine_min']:.5f}" for report in reports.values()]
        speeds = [f"{rate[name]:,.0f} ({rate[name] / rate[FP32]:.2f})" for rate in rates.values()]
        print(f"| {' | '.join([name, *figures, *speeds])} |")
    print(flush=True)


if __name__ == "__main__":
    main()
