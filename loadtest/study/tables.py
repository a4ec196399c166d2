"""The study's tables as rows of text, the same for terminal, page and document."""

from collections.abc import Iterable, Sequence
from typing import Final

from loadtest.bench.machine import Machine
from loadtest.figures import Latencies
from loadtest.study.figures import BATCH, CHUNKS, MB, Measured, Reference, Study

SPEED_HEAD: Final = ("", "single/s", f"{BATCH} at a time/s", "p50 ms", "p95 ms", "p99 ms", "$ per 1,000")
ACCURACY_HEAD: Final = ("", "cosine mean", "lowest", "change with batch", "MB on disk", "MB resident")
CHUNK_HEAD: Final = ("", "chunks", "s of one core", f"s for {CHUNKS:,}", "batch p50 ms", "p99 ms", "MB resident")
REFERENCE_HEAD: Final = ("figure", "reference", "here", "reached?")
NOTES: Final = (
    "Texts a second of one core's CPU time, median of rounds in which all took turns; over HTTP the servers' CPU time.",
    "p50 to p99 of single texts: CPU time in process, wall time over HTTP, which others' processes lengthen.",
    "Cosine to the baseline's vectors; change with batch is the share of texts whose bytes differ in a batch of "
    f"{BATCH} from those computed alone.",
)


def speed_rows(study: Study) -> list[Sequence[str]]:
    """Rates, latencies and costs."""
    price = study.usd_per_core_hour
    return [
        (
            one.name,
            *(f"{one.rates[size].median:,.1f}" for size in (1, BATCH)),
            *_percentiles(one.latency),
            "-" if price is None else f"{one.cost_per_1000(price):.6f}",
        )
        for one in study.measured
    ]


def accuracy_rows(study: Study) -> list[Sequence[str]]:
    """Cosines, batch dependence and sizes."""
    return [
        (
            one.name,
            *_cosines(one, study.baseline),
            f"{one.accuracy.batch_dependent:.0%}",
            f"{one.size_bytes / MB:,.1f}",
            f"{one.resident_bytes / MB:,.0f}",
        )
        for one in study.measured
    ]


def sweep_rows(study: Study) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Heading and rows: texts a second by batch size, median and best."""
    sizes = sorted({size for one in study.measured for size in one.rates})
    rows: list[Sequence[str]] = [
        (one.name, *(f"{one.rates[size].median:,.0f} ({one.rates[size].best:,.0f})" for size in sizes))
        for one in study.measured
    ]
    return ("texts/s: median (best)", *map(str, sizes)), rows


def chunk_rows(study: Study) -> list[Sequence[str]]:
    """One row for each candidate that computed chunks."""
    return [
        (
            one.name,
            f"{run.count:,}",
            f"{run.used_s:,.1f}",
            f"{run.seconds_for_all:,.0f}" + (" (extrapolated)" if run.count < CHUNKS else ""),
            f"{run.batches.p50_ms:,.0f}",
            f"{run.batches.p99_ms:,.0f}",
            f"{run.resident_bytes / MB:,.0f}",
        )
        for one in study.measured
        if (run := one.chunks)
    ]


def reference_rows(references: Iterable[Reference]) -> list[Sequence[str]]:
    """A published figure in a row."""
    words = {True: "yes", False: "no", None: "not measured"}
    return [
        (one.what, one.reference, one.here, words[one.reached] + (f": {one.why}" if one.why else ""))
        for one in references
    ]


def package_rows(study: Study) -> list[Sequence[str]]:
    """Versions."""
    return [(one.name, ", ".join(f"{k} {v}" for k, v in one.packages.items()) or "-") for one in study.measured]


def machine_line(machine: Machine) -> str:
    """What it ran on, in a line."""
    int8 = "with" if machine.int8_dot_products else "without"
    core = "not pinned" if machine.server_core is None else f"all candidates on core {machine.server_core}"
    return (
        f"{machine.cpu}, {machine.cores} cores usable, {int8} INT8 dot products (VNNI), {core}, load "
        f"{machine.load_before:g} before the start, Python {machine.python}"
    )


def settings_rows(study: Study) -> list[Sequence[str]]:
    """How it was run."""
    price = study.machine_usd_per_hour
    return [
        ("started", study.started),
        ("texts", f"{study.n_texts:,} of {study.texts}, {study.mean_chars:.0f} characters on average"),
        ("rounds", str(study.rounds)),
        ("baseline", study.baseline or "none: PyTorch and ONNX FP32 are both left out"),
        (
            "cost",
            "no --machine-price was given"
            if price is None
            else f"${price:g} an hour for the machine / {study.machine.cores} cores / 3,600 / texts/s x 1,000",
        ),
        *study.settings.items(),
    ]


def _percentiles(latency: Latencies) -> tuple[str, str, str]:
    p50, p95, p99 = (f"{value:.1f}" for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms))
    return p50, p95, p99


def _cosines(one: Measured, baseline: str | None) -> tuple[str, str]:
    if one.accuracy.mean is None or one.accuracy.lowest is None:
        return ("baseline", "baseline") if one.key == baseline else ("-", "-")
    return f"{one.accuracy.mean:.5f}", f"{one.accuracy.lowest:.4f}"
