"""`dejavec model verify`: everything measured about one bundle, and the verdict.

The bundle runs as the engine runs it: through `engine.model.session`, with the kernels of this machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime as ort

from engine.build.errors import CheckpointError
from engine.build.verify.embedding import Progress, Runs, encode
from engine.build.verify.quality import (
    BatchReport,
    CosineReport,
    check_batches,
    choose_texts,
    compare_with,
)
from engine.build.verify.reference import Reference, open_reference
from engine.build.verify.speed import (
    SHAPES,
    Memory,
    Speed,
    choose_clock,
    measure_memory,
    measure_speed,
    mixed_padding_share,
)
from engine.build.verify.tasks import TaskScore, measure_retrieval, measure_sts
from engine.bundle import Bundle, parse_tokenizer
from engine.feeds import Run
from engine.model.quality_bar import Verification, loss_shortfall, shortfalls, verification_file
from engine.model.session import Model, open_model
from engine.model.topology import Topology
from engine.settings import Device


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What to measure on, and how."""

    texts: Path | None = None
    checkpoint: str | None = None
    sts: Sequence[Path] = ()
    retrieval: Sequence[Path] = ()
    speed: bool = True
    threads: int = 1
    device: Device = "auto"


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one verification. None or empty: not measured; the reason is in `notes`."""

    bundle: Bundle
    folder: Path
    fingerprint: str
    kernel_class: str
    device: str
    threads: int
    clock: str
    onnxruntime: str
    reference: str | None
    texts_origin: str
    cosine: CosineReport | None
    batches: BatchReport
    tasks: list[TaskScore]
    file_bytes: dict[str, int]
    reference_graph_bytes: int | None
    padding_share: float
    memory: Memory | None
    speed: list[Speed]
    notes: list[str]

    @property
    def shortfalls(self) -> list[str]:
        """What is under the bar; what was not measured is not."""
        found = shortfalls(self.quality)
        if self.cosine is None:
            found = [line for line in found if not line.endswith("is not known")]
        for task in self.tasks:
            if len(task.points) == 2:
                own, reference = task.points.values()
                found += filter(None, [loss_shortfall(f"{task.name}: {task.metric}", own, reference)])
        return found

    @property
    def is_complete(self) -> bool:
        """Whether all that the engine's bar needs was measured."""
        return self.cosine is not None or self.bundle.precision == "fp32"

    @property
    def quality(self) -> dict[str, float]:
        """The figures under the names of `Bundle.quality`."""
        measured = {
            "batch_checked_texts": float(self.batches.texts),
            "batch_dependent_texts": float(self.batches.changed),
        }
        if (cosine := self.cosine) is not None:
            measured |= {"cosine_mean": cosine.mean, "cosine_p1": cosine.p1, "cosine_min": cosine.min}
            measured["cosine_texts"] = float(cosine.texts)
        return measured


def verify_bundle(folder: Path, options: VerifyOptions, progress: Progress) -> Report:
    """Measure a bundle. Raises BundleError, and BuildError for data or a checkpoint that cannot be used."""
    progress.step(f"opening {folder}")
    topology = Topology(cores=float(options.threads), sessions=1, threads=options.threads)
    model = open_model(folder, options.device, topology, allow_unverified=True, allow_batch_dependent=True)
    bundle, run = model.bundle, model.runs[0]
    tokenize = partial(encode, parse_tokenizer(model.tokenizer_json, bundle.max_tokens))
    texts, origin = choose_texts(bundle, options.texts)
    compared = tokenize(texts)
    reference, notes = _reference(bundle, options, progress)
    graphs: dict[str, Run] = {bundle.precision: run}
    if reference:
        graphs["fp32"] = reference.run
    cosine = None
    if reference:
        progress.step(f"cosine to FP32 over {len(compared)} texts")
        cosine = compare_with(reference.run, run, compared)
    if bundle.batch_dependent:
        changed, checked = (bundle.quality[f"batch_{name}_texts"] for name in ("dependent", "checked"))
        notes.append(f"batch-dependent: {changed:.0f} of {checked:.0f} texts changed in batches; each runs alone here")
    progress.step("batch-independence")
    batches = check_batches(run, compared, bundle.max_tokens, bundle.vocab_size)
    tasks = [measure_sts(path, tokenize, graphs, progress) for path in options.sts]
    tasks += [measure_retrieval(path, tokenize, graphs, bundle.prompts, progress) for path in options.retrieval]
    memory, speed, clock = _measure_cost(folder, model, graphs, options, progress)
    return Report(
        bundle=bundle,
        folder=folder,
        fingerprint=model.fingerprint,
        kernel_class=model.kernel_class,
        device=model.device,
        threads=options.threads,
        clock=clock,
        onnxruntime=ort.__version__,
        reference=reference.origin if reference else None,
        texts_origin=origin,
        cosine=cosine,
        batches=batches,
        tasks=tasks,
        file_bytes={path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        reference_graph_bytes=reference.graph_bytes if reference else None,
        padding_share=mixed_padding_share(bundle.max_tokens, bundle.vocab_size),
        memory=memory,
        speed=speed,
        notes=notes,
    )


def keep_verdict(report: Report) -> Path | None:
    """Write the verdict beside the bundle, for the engine to go by; None where it does not hold or cannot be kept.

    An incomplete verification decides nothing, and FP32 needs none.
    """
    if report.bundle.precision == "fp32" or not report.is_complete:
        return None
    verdict = Verification(
        graph_sha256=report.bundle.graph_sha256,
        kernel_class=report.kernel_class,
        onnxruntime=report.onnxruntime,
        texts=report.texts_origin,
        quality=report.quality,
        shortfalls=report.shortfalls,
    )
    path = verification_file(report.folder, report.kernel_class)
    try:
        path.write_text(verdict.model_dump_json(indent=2), encoding="utf-8")
    except OSError:
        return None
    return path


def _reference(bundle: Bundle, options: VerifyOptions, progress: Progress) -> tuple[Reference | None, list[str]]:
    """The FP32 graph, or why there is none."""
    if bundle.precision == "fp32":
        return None, ["this is an FP32 bundle: it is what others are compared with"]
    progress.step("building the FP32 graph to compare with")
    try:
        return open_reference(bundle, options.checkpoint, options.threads), []
    except CheckpointError as error:
        if options.checkpoint is not None:
            raise
        return None, [f"nothing is compared with FP32: {error}"]


def _measure_cost(
    folder: Path, model: Model, graphs: Runs, options: VerifyOptions, progress: Progress
) -> tuple[Memory | None, list[Speed], str]:
    bundle = model.bundle
    clock, clock_name = choose_clock(options.threads, model.device)
    memory, speed = None, []
    if options.speed:
        progress.step("resident memory of a fresh process")
        memory = measure_memory(folder, options.threads, options.device)
        progress.step("tokens per second")
        speed = measure_speed(graphs, SHAPES, bundle.max_tokens, bundle.vocab_size, clock)
    return memory, speed, clock_name
