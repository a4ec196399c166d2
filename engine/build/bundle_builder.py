"""Checkpoint -> bundle, from the first file read to the finished folder. The order of the steps."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from filelock import FileLock
from tokenizers import Tokenizer

from engine.build.calibration import CalibrationTexts, read_texts
from engine.build.checkpoint.choices import Choices, choose, refuse_unsupported
from engine.build.checkpoint.dense import dense_weights, read_dense
from engine.build.checkpoint.files import WEIGHTS_FILE, Checkpoint, open_checkpoint
from engine.build.checkpoint.shape import Shape, read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.errors import CheckpointError
from engine.build.graph.encoder_graph import UNTILED_TOKENS
from engine.build.graph.head import Head
from engine.build.graph.onnx_writer import OPSET
from engine.build.graph.quantize import ALPHA, FIXED_ALPHA, OUTLIER_NEURONS, write_fp32
from engine.build.graph.rounding import PAIR_LIMIT
from engine.build.graph.step import GraphInputs, Made, check_vectors, make_graph
from engine.build.quality import cosine_report, count_batch_dependent, demand, lengths_to_check
from engine.build.running import Run, embed, open_graph
from engine.build.static_embedding.step import make_static_embedding
from engine.bundle import (
    BUNDLE_FILE,
    CHECK_FILE,
    GRAPH_FILE,
    STATIC_EMBEDDING_FILE,
    TOKENIZER_FILE,
    Bundle,
    BundleError,
    Pooling,
    Precision,
    check_files,
    parse_tokenizer,
    read_bundle,
    sha256_of,
)
from engine.model.quality_bar import shortfalls
from engine.protocol import Int32Array

BUILDER_VERSION = 3  # raise it whenever the same inputs give another graph or tokenizer
BUILDING_SUFFIX = ".building"
MAX_CORPUS_TEXTS = 50_000  # a sample of a larger corpus for the static embedding; fitting takes minutes

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user may decide; None leaves it to the checkpoint."""

    calibration_file: Path | None = None
    pooling: Pooling | None = None
    prompts: Mapping[str, str] | None = None
    name: str | None = None
    precision: Precision | None = None  # the fastest exact one on this CPU: INT8, or FP32
    force: bool = False  # build again what is there, and keep a graph that is under the bar
    static_embedding_corpus: Path | None = None  # texts to fit it to; None: the quick form


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything known before any weight is read."""

    checkpoint: Checkpoint
    shape: Shape
    choices: Choices
    head: Head
    texts: CalibrationTexts
    options: BuildOptions

    @property
    def name(self) -> str:
        return self.options.name or self.checkpoint.name

    def inputs(self) -> dict[str, Any]:
        """What decides the bundle's content: a bundle whose recipe has the same need not be built again."""
        corpus = self.options.static_embedding_corpus
        inputs = {
            "builder_version": BUILDER_VERSION,
            "model": self.name,
            "precision": self.options.precision or "fastest",
            "source_sha256": self.checkpoint.weights_sha256,
            "tokenizer_source_sha256": sha256_of(self.checkpoint.folder / TOKENIZER_FILE),
            "calibration_sha256": self.texts.sha256 if self.options.precision in ("int8", None) else None,
            "pooling": self.choices.pooling,
            "normalize": self.choices.normalize,
            "max_tokens": self.choices.max_tokens,
            "prompts": self.choices.prompts,
            "default_prompt_name": self.choices.default_prompt_name,
            "static_embedding_corpus_sha256": sha256_of(corpus) if corpus else None,
        }
        if self.shape.max_positions > UNTILED_TOKENS:
            inputs["tiled"] = True
        if self.choices.dense:
            weights = (dense_weights(self.checkpoint, folder) for folder in self.choices.dense)
            inputs["dense_sha256"] = list(map(sha256_of, weights))
        return inputs


def build_bundle(
    source: str,
    out: Path,
    *,
    calibration_file: Path | None = None,
    pooling: Pooling | None = None,
    prompts: Mapping[str, str] | None = None,
    name: str | None = None,
    precision: Precision | None = None,
    force: bool = False,
    static_embedding_corpus: Path | None = None,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Build the bundle folder `out` from `source`, a checkpoint folder or a hub id, and return what it is.

    Nothing is done when `out` already is this bundle. `out` appears complete or not at all; several builders of one
    `out` wait for each other. `progress` is called with each step in a few words. Raises BuildError.
    """
    options = BuildOptions(calibration_file, pooling, prompts, name, precision, force, static_embedding_corpus)
    plan = _plan(source, options)
    _report_choices(plan, progress)
    out = out.expanduser().absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / f".{out.name}.lock"):
        if not force and (existing := _existing(out, plan)) is not None:
            progress("the bundle is already there, made from the same inputs")
            return existing
        with replaced_folder(out) as folder:
            return _build(plan, folder, progress)


def _plan(source: str, options: BuildOptions) -> _Plan:
    check = partial(refuse_unsupported, pooling=options.pooling, prompts=options.prompts)
    checkpoint = open_checkpoint(source, check)
    shape = read_shape(checkpoint.config)
    choices = choose(checkpoint, shape.max_positions, options.pooling, options.prompts)
    head = Head(choices.pooling, choices.normalize, read_dense(checkpoint, choices.dense, shape.hidden))
    return _Plan(checkpoint, shape, choices, head, read_texts(options.calibration_file), options)


def _report_choices(plan: _Plan, progress: Progress) -> None:
    checkpoint, choices = plan.checkpoint, plan.choices
    progress(f"checkpoint: {checkpoint.model_id} (SHA-256 {checkpoint.weights_sha256[:16]}…)")
    for name, provenance in choices.provenance.items():
        progress(f"{name}: {getattr(choices, name)!r}, from {provenance}")


def _existing(out: Path, plan: _Plan) -> Bundle | None:
    """The bundle at `out`, when it is whole and made from the same inputs."""
    try:
        bundle = read_bundle(out)
        check_files(out, bundle)
    except BundleError:
        return None
    return bundle if bundle.recipe.get("inputs") == plan.inputs() else None


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends well, and is gone when it does not.

    The caller holds the lock, so a folder of this kind found here is what a killed builder left.
    """
    prefix = f".{out.name}."
    for abandoned in out.parent.glob(f"{prefix}*{BUILDING_SUFFIX}"):
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=BUILDING_SUFFIX, dir=out.parent))
    old = folder.with_name(f"{prefix}old{BUILDING_SUFFIX}")
    try:
        yield folder
        folder.chmod(0o755)
        if out.exists():
            out.rename(old)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _build(plan: _Plan, folder: Path, progress: Progress) -> Bundle:
    started_s = time.perf_counter()
    tokenizer = _write_tokenizer(plan, folder)
    progress("reading the weights")
    weights = read_weights(plan.checkpoint.folder / WEIGHTS_FILE, plan.shape)
    reference = write_fp32(weights, plan.head)
    made = make_graph(
        GraphInputs(weights, plan.head, reference, plan.texts, partial(encode, tokenizer)),
        plan.options.precision,
        progress,
    )
    write_model(made.graph, folder / GRAPH_FILE)
    run, fp32 = open_graph(made.graph), open_graph(reference)
    write_file(folder / CHECK_FILE, check_vectors(run, fp32, partial(encode, tokenizer)).to_bytes())
    ordinary = (*plan.texts.calibrate, *plan.texts.hold_out)
    static_embedding = make_static_embedding(
        run, partial(encode, tokenizer), tokenizer, ordinary, _static_embedding_corpus(plan), progress
    )
    write_file(folder / STATIC_EMBEDDING_FILE, static_embedding.to_bytes())
    quality = _measure(plan, made, run, fp32, tokenizer, progress)
    if not plan.options.force:
        demand(quality)
    for shortfall in shortfalls(quality) if made.precision != "fp32" else ():
        progress(f"UNDER THE ENGINE'S BAR: {shortfall}; see `dejavec model verify`")
    bundle = _describe(plan, folder, made.precision, quality, static_embedding.meta)
    write_file(folder / BUNDLE_FILE, bundle.model_dump_json(indent=2).encode())
    progress(f"built in {time.perf_counter() - started_s:.1f} s")
    return bundle


def _write_tokenizer(plan: _Plan, folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer without its padding, cut at the model's own limit whatever the file said."""
    try:
        content = (plan.checkpoint.folder / TOKENIZER_FILE).read_bytes()
        tokenizer = parse_tokenizer(content, plan.choices.max_tokens)
    except BundleError as error:
        raise CheckpointError(f"{plan.checkpoint.folder / TOKENIZER_FILE}: {error}") from None
    if tokenizer.get_vocab_size() > plan.shape.vocab_size:
        raise CheckpointError(
            f"{TOKENIZER_FILE} has {tokenizer.get_vocab_size()} tokens, config.json {plan.shape.vocab_size}"
        )
    write_file(folder / TOKENIZER_FILE, tokenizer.to_str().encode())
    return tokenizer


def _static_embedding_corpus(plan: _Plan) -> list[str]:
    """The texts to fit the static embedding to; none for the quick form."""
    if plan.options.static_embedding_corpus is None:
        return []
    texts = read_texts(plan.options.static_embedding_corpus, sample_size=MAX_CORPUS_TEXTS)
    return [*texts.calibrate, *texts.hold_out]


def _measure(
    plan: _Plan, made: Made, run: Run, fp32: Run, tokenizer: Tokenizer, progress: Progress
) -> dict[str, float]:
    """Figures for `Bundle.quality`, each reported as it is known; `run` and `fp32`: the two graphs, opened."""
    quality: dict[str, float] = {}
    if made.precision != "fp32":
        progress("comparing with FP32")
        texts = encode(tokenizer, plan.texts.hold_out)
        exact = embed(fp32, texts)
        quality |= cosine_report(embed(run, texts), exact)
        progress(
            f"cosine to FP32 over {len(texts)} texts: mean {quality['cosine_mean']:.5f},"
            f" 1st percentile {quality['cosine_p1']:.5f}, min {quality['cosine_min']:.5f}"
        )
        if made.nearest is not None:
            without = cosine_report(embed(open_graph(made.nearest), texts), exact)
            progress(
                f"without GPTQ, each weight rounded to the nearest: mean {without['cosine_mean']:.5f},"
                f" min {without['cosine_min']:.5f}"
            )
            quality |= {f"{name}_nearest": without[name] for name in ("cosine_mean", "cosine_min")}
    quality |= _batch_dependence(plan, run)
    progress(
        f"texts whose vector changes with their batch: {quality['batch_dependent_texts']:.0f}"
        f" of {quality['batch_checked_texts']:.0f}"
    )
    return quality


def _batch_dependence(plan: _Plan, run: Run) -> dict[str, float]:
    max_tokens = plan.choices.max_tokens
    changed = count_batch_dependent(run, max_tokens, plan.shape.vocab_size)
    return {"batch_checked_texts": float(len(lengths_to_check(max_tokens))), "batch_dependent_texts": float(changed)}


def _describe(
    plan: _Plan, folder: Path, precision: Precision, quality: dict[str, float], static_embedding: dict[str, Any]
) -> Bundle:
    recipe: dict[str, Any] = {
        "inputs": plan.inputs(),
        "opset": OPSET,
        "onnxruntime": ort.__version__,
        "revision": plan.checkpoint.revision,
        "static_embedding": static_embedding,
    }
    if precision == "int8":
        recipe["smoothquant_alpha"] = ALPHA
        recipe["fixed_steps_alpha"] = FIXED_ALPHA
        recipe["weight_rounding"] = {"method": "gptq", "pair_limit": PAIR_LIMIT, "outlier_neurons": OUTLIER_NEURONS}
        recipe["calibration"] = {
            "file": "built-in" if plan.options.calibration_file is None else plan.options.calibration_file.name,
            "texts": len(plan.texts.calibrate),
            "lines": plan.texts.lines.read,
            "skipped_lines": plan.texts.lines.skipped.total(),
        }
    choices = plan.choices
    return Bundle(
        model=plan.name,
        source=plan.checkpoint.model_id,
        source_sha256=plan.checkpoint.weights_sha256,
        tokenizer_sha256=sha256_of(folder / TOKENIZER_FILE),
        graph_sha256=sha256_of(folder / GRAPH_FILE),
        static_embedding_sha256=sha256_of(folder / STATIC_EMBEDDING_FILE),
        check_sha256=sha256_of(folder / CHECK_FILE),
        precision=precision,
        dimensions=plan.head.dimensions(plan.shape.hidden),
        max_tokens=choices.max_tokens,
        vocab_size=plan.shape.vocab_size,
        pooling=choices.pooling,
        normalize=choices.normalize,
        matryoshka_dims=choices.matryoshka_dims,
        prompts=choices.prompts,
        default_prompt_name=choices.default_prompt_name,
        recipe=recipe,
        provenance=choices.provenance,
        quality=quality,
    )


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int32Array]:
    """Token ids of each text, int32[length]."""
    return [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch(list(texts))]


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """A graph's bytes, the same for the same graph."""
    write_file(path, model.SerializeToString(deterministic=True))


def write_file(path: Path, content: bytes) -> None:
    """Write and flush to the disk, so that the rename never shows a folder whose files are not there yet."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
