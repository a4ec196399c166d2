"""A verification as tables on a terminal, and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.build.verify.bundle_verifier import Report
from engine.build.verify.quality import SHORT_TOKENS
from engine.build.verify.speed import PADDING_LENGTHS
from engine.model.quality_bar import LARGEST_LOSS_POINTS, LOWEST_COSINE, LOWEST_MEAN_COSINE

MB = 1e6
KERNELS = {
    "int8-exact": "integer products, exact on this CPU",
    "fp32": "plain float32",
    "fp16-cpu": "float16 on the CPU, which is slow",
    "fp16-cuda": "float16 on a CUDA GPU",
    "fp32-cuda": "float32 on a CUDA GPU",
}
PASSES, FAILS, UNDECIDED = "PASSES", "UNDER THE BAR", "NOT DECIDED"


def verdict(report: Report) -> str:
    """One of three words for the whole report."""
    if report.shortfalls:
        return FAILS
    return PASSES if report.is_complete else UNDECIDED


def as_json(report: Report) -> dict[str, Any]:
    """Everything of the report; bytes, shares and tokens/s as plain numbers."""
    content = asdict(report) | {"folder": str(report.folder)}
    content["bundle"] = report.bundle.model_dump(include={"model", "source", "precision", "graph_sha256", "max_tokens"})
    bars = {"cosine_mean": LOWEST_MEAN_COSINE, "cosine_min": LOWEST_COSINE, "loss_points": LARGEST_LOSS_POINTS}
    return content | {"bars": bars, "verdict": verdict(report), "shortfalls": report.shortfalls}


def show_report(report: Report, console: Console) -> None:
    """Print the report, the verdict last."""
    console.print(_identity(report))
    console.print(_quality(report))
    console.print(_cost(report))
    if report.speed:
        console.print(_speed(report))
    for note in report.notes:
        console.print(f"note: {escape(note)}")
    for shortfall in report.shortfalls:
        console.print(f"[red]under the bar[/red]: {escape(shortfall)}")
    colour = {PASSES: "green", FAILS: "red", UNDECIDED: "yellow"}[verdict(report)]
    console.print(f"[bold {colour}]{verdict(report)}[/]")


def _identity(report: Report) -> Table:
    table = _table(f"{report.bundle.model}, {report.bundle.precision}")
    table.add_row("bundle", escape(str(report.folder)))
    table.add_row("fingerprint", report.fingerprint)
    kernels = KERNELS.get(report.kernel_class)
    table.add_row("kernel class", report.kernel_class + (f": {kernels}" if kernels else ""))
    table.add_row("measured on", f"{report.device}, {_threads(report)}, ONNX Runtime {report.onnxruntime}")
    table.add_row("compared with", escape(f"FP32 graph from {report.reference}" if report.reference else "nothing"))
    return table


def _quality(report: Report) -> Table:
    table = _table("quality", "measured", "FP32", "bar")
    if (cosine := report.cosine) is not None:
        table.add_row("cosine to FP32, mean", f"{cosine.mean:.5f}", "", f"≥ {LOWEST_MEAN_COSINE}")
        table.add_row("… 1st percentile", f"{cosine.p1:.5f}")
        lowest = f"{cosine.min:.5f} (a text of {cosine.least_tokens} tokens)"
        table.add_row("… lowest", lowest, "", f"≥ {LOWEST_COSINE}")
        if cosine.mean_long is not None:
            long = f"{cosine.mean_long:.5f}, {cosine.min_long:.5f}"
            table.add_row(f"… mean and lowest from {SHORT_TOKENS} tokens on", long)
        table.add_row("… texts", f"{cosine.texts}, {escape(report.texts_origin)}")
    batches = report.batches
    changed = f"{batches.changed} of {batches.texts} texts in {batches.batches} batches"
    table.add_row("vectors that change with their batch", changed, "", "0, to the byte")
    if batches.changed:
        table.add_row("… of so many tokens", ", ".join(map(str, batches.changed_lengths)))
    for cells in _task_rows(report):
        table.add_row(*cells)
    return table


def _task_rows(report: Report) -> Iterator[tuple[str, ...]]:
    for task in report.tasks:
        own, *reference = task.points.values()
        bar = f"≥ {reference[0] - LARGEST_LOSS_POINTS:.2f}" if reference else ""
        yield escape(task.name), f"{own:.2f} {task.metric}", f"{reference[0]:.2f}" if reference else "", bar
        yield "… on", task.size


def _cost(report: Report) -> Table:
    table = _table("cost")
    total = sum(report.file_bytes.values())
    table.add_row("on disk", f"{total / MB:.1f} MB")
    table.add_row("… by file", escape(", ".join(f"{name} {n / MB:.1f}" for name, n in report.file_bytes.items())))
    if report.reference_graph_bytes is not None:
        table.add_row("… FP32 graph", f"{report.reference_graph_bytes / MB:.1f} MB")
    if (memory := report.memory) is not None:
        table.add_row(
            "resident, a fresh process without a server",
            f"{memory.resident_bytes / MB:.0f} MB ({memory.before_bytes / MB:.0f} MB before the bundle was opened)",
        )
    shortest, longest = PADDING_LENGTHS
    table.add_row(f"padding, texts of {shortest}-{longest} tokens", f"{report.padding_share:.1%}")
    return table


def _speed(report: Report) -> Table:
    names = list(report.speed[0].tokens_per_s)
    table = _table(f"tokens/s, {_threads(report)}, {report.clock}", *names, "x FP32" if len(names) > 1 else "")
    for speed in report.speed:
        rates = list(speed.tokens_per_s.values())
        ratio = f"{rates[0] / rates[1]:.2f}" if len(rates) > 1 else ""
        table.add_row(f"{speed.batch} x {speed.tokens}", *(f"{rate:,.0f}" for rate in rates), ratio)
    return table


def _threads(report: Report) -> str:
    return f"{report.threads} thread{'s' if report.threads > 1 else ''}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=bool(columns))
    for column in ("", *(columns or ("",))):
        table.add_column(column, overflow="fold")
    return table
