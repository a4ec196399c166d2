"""Checkpoint -> bundle, from the first file read to the finished folder. The order of the steps."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
from tokenizers import Tokenizer

from engine.build.bundle_folder import (
    Progress,
    encode,
    made_once,
    report_choices,
    write_file,
    write_model,
    write_tokenizer,
)
from engine.build.calibration import CalibrationTexts, read_texts
from engine.build.checkpoint.choices import Choices, choose, refuse_unsupported
from engine.build.checkpoint.dense import dense_weights, read_dense
from engine.build.checkpoint.files import WEIGHTS_FILE, Checkpoint, open_checkpoint
from engine.build.checkpoint.shape import Shape, read_shape
from engine.build.checkpoint.weights import read_weights
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
    Pooling,
    Precision,
    sha256_of,
)
from engine.model.quality_bar import shortfalls

BUILDER_VERSION = 3  # raise it whenever the same inputs give another graph or tokenizer
MAX_CORPUS_TEXTS = 50_000  # a sample of a larger corpus for the static embedding; fitting takes minutes


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
    progress(f"checkpoint: {plan.checkpoint.model_id} (SHA-256 {plan.checkpoint.weights_sha256[:16]}…)")
    report_choices(plan.choices, progress)
    return made_once(out, plan.inputs(), force, lambda folder: _build(plan, folder, progress), progress)


def _plan(source: str, options: BuildOptions) -> _Plan:
    check = partial(refuse_unsupported, pooling=options.pooling, prompts=options.prompts)
    checkpoint = open_checkpoint(source, check)
    shape = read_shape(checkpoint.config)
    choices = choose(checkpoint, shape.max_positions, options.pooling, options.prompts)
    head = Head(choices.pooling, choices.normalize, read_dense(checkpoint, choices.dense, shape.hidden))
    return _Plan(checkpoint, shape, choices, head, read_texts(options.calibration_file), options)


def _build(plan: _Plan, folder: Path, progress: Progress) -> Bundle:
    started_s = time.perf_counter()
    tokenizer = write_tokenizer(plan.checkpoint, plan.choices.max_tokens, plan.shape.vocab_size, folder)
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
        matryoshka_layer_norm=choices.matryoshka_layer_norm,
        prompts=choices.prompts,
        default_prompt_name=choices.default_prompt_name,
        recipe=recipe,
        provenance=choices.provenance,
        quality=quality,
    )
