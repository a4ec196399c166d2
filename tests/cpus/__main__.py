"""`make test-cpus`: the default model's graphs on every kind of CPU that can be emulated here, as tables.

    python -m tests.cpus                            all kinds, about 20 minutes
    python -m tests.cpus --cpus Haswell max         some of them
    python -m tests.cpus --json cpus.json           write the figures as well

The first run downloads an arm64 Python (170 MB on disk) and builds an FP32 bundle, both into `.dejavec/cpus`. Exit
status 1 where products are inexact, vectors depend on their batch or are far from FP32, or a bundle cannot be built.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.build import build_bundle, default_checkpoint
from engine.bundle import GRAPH_FILE, BundleError, read_bundle
from engine.protocol import Float32Array
from tests.cpus.arm64 import NotPrepared, prepare
from tests.cpus.comparison import Difference, compare, compare_all
from tests.cpus.emulator import (
    ARM64,
    NATIVE,
    THIS_PYTHON,
    X86,
    Cpu,
    EmulationFailed,
    Python,
    compute,
    reason_to_skip,
    run_python,
)
from tests.cpus.products import write_products
from tests.cpus.texts import make_batches, sample_texts
from tests.cpus.worker import Answer, Job
from tests.tiny_bert import write_checkpoint

CPUS = (NATIVE, *X86, *ARM64)
BUNDLE = Path(".dejavec/models/all-MiniLM-L6-v2")
CACHE = Path(".dejavec/cpus")
LOWEST_COSINE = 0.99  # to FP32, single words included
REPORT_WIDTH = 132


@dataclass(frozen=True, slots=True)
class Built:
    """A small bundle built on a kind of CPU. `same_graph`: to the byte the one that this machine's CPU builds."""

    seconds: float
    cosine_min: float
    batch_dependent: int
    same_graph: bool


@dataclass(slots=True)
class Report:
    """Everything that was found, by the kind's name."""

    answers: dict[str, dict[str, Answer]] = field(default_factory=lambda: {"int8": {}, "fp32": {}})
    vectors: dict[str, dict[str, Float32Array]] = field(default_factory=lambda: {"int8": {}, "fp32": {}})
    built: dict[str, Built] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def to_fp32(self, cpu: str) -> Difference:
        """A kind's INT8 vectors beside the FP32 ones of this machine's CPU."""
        return compare(self.vectors["int8"][cpu], self.vectors["fp32"][NATIVE.name])


def main() -> int:
    """Parse options, run, print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [cpu.name for cpu in CPUS]
    parser.add_argument("--cpus", nargs="+", choices=names, default=names, help="kinds; the native one always runs")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="an INT8 bundle of the default checkpoint")
    parser.add_argument("--cache", type=Path, default=CACHE, help="what is downloaded and built once")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    try:
        if (precision := read_bundle(options.bundle).precision) != "int8":
            parser.error(f"{options.bundle} is {precision}: build one with --precision int8 and name it with --bundle")
    except BundleError as error:
        parser.error(str(error))
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else REPORT_WIDTH)
    report = Report()
    cpus = [cpu for cpu in CPUS if cpu == NATIVE or cpu.name in options.cpus]
    pythons = _pythons(cpus, options.cache, report)
    with tempfile.TemporaryDirectory(prefix="dejavec-cpus-") as folder:
        _measure(pythons, options.bundle, options.cache, Path(folder), report)
        _build_everywhere(pythons, Path(folder), report)
    _judge(report)
    for table in (_graph_table(report), _pair_table(report), _build_table(report)):
        console.print(table)
    for fault in report.faults:
        console.print(f"FAULT: {escape(fault)}")
    if options.json:
        options.json.write_text(json.dumps(_as_json(report), indent=1), encoding="utf-8")
    return 1 if report.faults else 0


def _pythons(cpus: Sequence[Cpu], cache: Path, report: Report) -> dict[Cpu, Python]:
    """The interpreter for each kind; one that cannot be had here is a fault."""
    pythons: dict[Cpu, Python] = {}
    for cpu in cpus:
        reason = reason_to_skip(cpu)
        try:
            if not reason:
                pythons[cpu] = prepare(cache / "arm64") if cpu in ARM64 else THIS_PYTHON
        except NotPrepared as error:
            reason = str(error)
        if reason:
            report.faults.append(f"{cpu.name}: {reason}")
    return pythons


def _measure(pythons: dict[Cpu, Python], bundle: Path, cache: Path, folder: Path, report: Report) -> None:
    """Vectors of the INT8 graph with all checks, and of the FP32 graph, on each kind."""
    texts = sample_texts(bundle)
    write_products(bundle / GRAPH_FILE, folder / "products")
    fp32 = cache / "fp32"
    build_bundle(str(default_checkpoint()), fp32, precision="fp32", progress=_tell)
    batches = make_batches(texts)
    jobs = {
        "int8": Job(str((bundle / GRAPH_FILE).resolve()), texts, batches, str(folder / "products")),
        "fp32": Job(str((fp32 / GRAPH_FILE).resolve()), texts, batches[:1]),  # FP32 takes twice as long
    }
    for cpu, python in pythons.items():
        for precision, job in jobs.items():
            _tell(f"{cpu.name}: the {precision.upper()} graph, {len(texts)} texts")
            try:
                answer, vectors = compute(cpu, python, job, folder / precision)
            except EmulationFailed as error:
                report.faults.append(str(error))
                continue
            report.answers[precision][cpu.name], report.vectors[precision][cpu.name] = answer, vectors


def _build_everywhere(pythons: dict[Cpu, Python], folder: Path, report: Report) -> None:
    """The builder on the kinds that run this Python; the arm64 one has too few packages for it."""
    write_checkpoint(folder / "tiny")
    hashes: dict[str, str] = {}
    for cpu, python in pythons.items():
        if cpu in ARM64:
            continue
        _tell(f"{cpu.name}: building a small bundle")
        out, started_s = folder / f"tiny-{cpu.name}", time.perf_counter()
        command = ["-m", "deploy.cli", "model", "build", str(folder / "tiny"), "--out", str(out), "--precision", "int8"]
        try:
            run_python(cpu, python, command)
        except EmulationFailed as error:
            report.faults.append(f"the build on {error}")
            continue
        bundle = read_bundle(out)
        hashes[cpu.name] = bundle.graph_sha256
        report.built[cpu.name] = Built(
            seconds=round(time.perf_counter() - started_s, 1),
            cosine_min=bundle.quality["cosine_min"],
            batch_dependent=int(bundle.quality["batch_dependent_texts"]),
            same_graph=bundle.graph_sha256 == hashes.get(NATIVE.name),
        )


def _judge(report: Report) -> None:
    """Add to the faults what no kind of CPU may do."""
    for precision, answers in report.answers.items():
        for name, answer in answers.items():
            if answer.wrong_products:
                report.faults.append(f"{name}: {answer.wrong_products} of {answer.products} products are inexact")
            if answer.batch_dependent:
                count = len(answer.batch_dependent)
                report.faults.append(
                    f"{name}: {count} vectors of the {precision.upper()} graph change with their batch"
                )
    if NATIVE.name in report.vectors["fp32"]:
        for name in report.vectors["int8"]:
            if (lowest := report.to_fp32(name).cosine_min) < LOWEST_COSINE:
                report.faults.append(f"{name}: cosine to FP32 is {lowest:.5f} at worst; the bar is {LOWEST_COSINE}")


def _graph_table(report: Report) -> Table:
    table = Table(title="The graphs, by kind of CPU", title_justify="left")
    for column in ("CPU", "ONNX Runtime", "kernel check", "wrong products", "batch-dependent INT8 / FP32"):
        table.add_column(column)
    table.add_column("cosine to FP32, mean / min")
    table.add_column("seconds INT8 / FP32")
    for name, int8 in report.answers["int8"].items():
        fp32 = report.answers["fp32"].get(name)
        known = NATIVE.name in report.vectors["fp32"]
        cosine = report.to_fp32(name) if known else None
        table.add_row(
            name,
            int8.onnxruntime,
            int8.kernel_check,
            f"{int8.wrong_products} of {int8.products}",
            f"{len(int8.batch_dependent)} / {len(fp32.batch_dependent) if fp32 else '-'}",
            f"{cosine.cosine_mean:.6f} / {cosine.cosine_min:.6f}" if cosine else "-",
            f"{int8.run_s:.1f} / {fp32.run_s if fp32 else 0:.1f}",
        )
    return table


def _pair_table(report: Report) -> Table:
    table = Table(title="The same graph on two kinds of CPU: cosine and largest difference", title_justify="left")
    for column in ("CPUs", "INT8 mean", "INT8 min", "INT8 largest", "equal texts", "FP32 mean", "FP32 min"):
        table.add_column(column)
    table.add_column("FP32 largest")
    fp32 = compare_all(report.vectors["fp32"])
    for pair, found in compare_all(report.vectors["int8"]).items():
        figures = [f"{found.cosine_mean:.7f}", f"{found.cosine_min:.7f}", f"{found.largest_difference:.2e}"]
        figures.append(str(found.equal_texts))
        if (other := fp32.get(pair)) is not None:
            figures += [f"{other.cosine_mean:.9f}", f"{other.cosine_min:.9f}", f"{other.largest_difference:.2e}"]
        table.add_row(" and ".join(pair), *figures)
    return table


def _build_table(report: Report) -> Table:
    title = "A small bundle built there (on arm64 only graphs are run)"
    table = Table(title=title, title_justify="left")
    for column in ("CPU", "seconds", "cosine to FP32, min", "batch-dependent", "the same graph as native"):
        table.add_column(column)
    for name, built in report.built.items():
        same = "yes" if built.same_graph else "no"
        table.add_row(name, f"{built.seconds:.1f}", f"{built.cosine_min:.5f}", str(built.batch_dependent), same)
    return table


def _as_json(report: Report) -> dict[str, object]:
    pairs = {
        precision: {" and ".join(pair): asdict(found) for pair, found in compare_all(vectors).items()}
        for precision, vectors in report.vectors.items()
    }
    known = NATIVE.name in report.vectors["fp32"]
    return {
        "graphs": {p: {name: asdict(one) for name, one in found.items()} for p, found in report.answers.items()},
        "to_fp32": {name: asdict(report.to_fp32(name)) for name in report.vectors["int8"]} if known else {},
        "pairs": pairs,
        "built": {name: asdict(one) for name, one in report.built.items()},
        "faults": report.faults,
    }


def _tell(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
