"""An exported model -> bundle, from the first file read to the finished folder. The order of the steps."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from engine.build.bundle_folder import (
    Progress,
    encode,
    made_once,
    report_choices,
    write_file,
    write_model,
    write_tokenizer,
)
from engine.build.calibration import with_single_words
from engine.build.checkpoint.dense import read_dense
from engine.build.checkpoint.files import open_checkpoint
from engine.build.errors import BuildError, QualityError, UnsupportedModel
from engine.build.graph.head import Head
from engine.build.graph.onnx_writer import OPSET
from engine.build.graph.quantize import ALPHA, OUTLIER_NEURONS
from engine.build.graph.rounding import PAIR_LIMIT
from engine.build.graph.step import SPEED_SHAPE, Encode, check_vectors, speed_ratio
from engine.build.imported.exported import Exported, prepare
from engine.build.imported.optimum import exported_graph, exporter_versions
from engine.build.imported.original import Original, compare_with_original, open_original, run_each
from engine.build.imported.plan import ImportOptions, Plan, plan_graph, plan_import, settle
from engine.build.imported.products import Sites, find_sites
from engine.build.imported.quantize import observe_imported, write_imported_int8
from engine.build.imported.rewrite import write_imported
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
    Precision,
    sha256_of,
)
from engine.model.check_vectors import cosine_similarity
from engine.model.cpu_session import InexactProducts, require_exact_products
from engine.model.quality_bar import cosine_shortfalls
from engine.protocol import Float32Array, Int32Array

SAME_POOLING = 0.999  # cosine similarity of our vectors to the graph's own, where it gives both
COMPARED_LENGTHS = (2, 3, 7, 16)  # and the longest
UNIT_LENGTH = 1e-3  # how far from 1 the length of a normalised vector may be


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The exported graph in FP32 with the engine's inputs, giving vectors.

    head: None where the graph gives vectors itself. difference: from the graph as it came, relative.
    """

    exported: Exported
    head: Head | None
    fp32: onnx.ModelProto
    run: Run
    difference: float


def import_bundle(source: str | Path, out: Path, options: ImportOptions, progress: Progress = lambda _: None) -> Bundle:
    """Make the bundle folder `out` from the exported model `source`, and return what it is. Raises BuildError.

    As `engine.build.build_bundle`: nothing is done when `out` is this bundle already, and it appears whole or not at
    all. A graph whose vectors depend on their batch becomes a bundle that says so.
    """
    return _import(plan_import(source, options), out, progress)


def export_bundle(source: str, out: Path, options: ImportOptions, progress: Progress = lambda _: None) -> Bundle:
    """As `import_bundle`, of a checkpoint folder or hub id whose graph Optimum exports first. Raises BuildError."""
    exporter_versions()
    checkpoint = open_checkpoint(source, partial(settle, options=options))
    progress(f"checkpoint: {checkpoint.model_id} (SHA-256 {checkpoint.weights_sha256[:16]}…)")
    with exported_graph(checkpoint, progress) as exported:
        return _import(plan_graph(exported, options), out, progress)


def _import(plan: Plan, out: Path, progress: Progress) -> Bundle:
    origin = f", SHA-256 {plan.source.checkpoint.weights_sha256[:16]}…" if plan.source.exporter is None else ""
    progress(f"exported graph: opset {plan.source.opset}{origin}")
    report_choices(plan.choices, progress)
    return made_once(out, plan.inputs(), plan.options.force, lambda folder: _make(plan, folder, progress), progress)


def rewrite(plan: Plan, progress: Progress) -> tuple[Rewritten, Original]:
    """The FP32 graph, compared with the one that came. Raises UnsupportedModel."""
    original = open_original(plan.source, plan.contract)
    exported, bare = _with_engine_inputs(plan)
    output = plan.contract.tokens or plan.contract.text
    assert output is not None, "the contract has one of the two"
    longest = plan.choices.max_tokens
    texts = _texts([min(length, longest) for length in (*COMPARED_LENGTHS, longest)], plan)
    difference = max(compare_with_original(original, bare, output, text) for text in texts)
    progress(f"with the engine's inputs the graph gives its own numbers within {difference:.1e} of the largest")
    if not exported.gives_tokens:
        fp32 = write_imported(exported, plan.pad_token_id)
        return Rewritten(exported, None, fp32, bare, difference), original
    hidden = original.run(texts[0], output).shape[-1]
    dense = read_dense(plan.source.checkpoint, plan.choices.dense, hidden)
    head = Head(plan.choices.pooling, plan.choices.normalize, dense)
    fp32 = write_imported(exported, plan.pad_token_id, head)
    rewritten = Rewritten(exported, head, fp32, open_graph(fp32), difference)
    _compare_pooling(plan, run_each(rewritten.run), original, texts[:3])
    return rewritten, original


def _with_engine_inputs(plan: Plan) -> tuple[Exported, Run]:
    """The graph made ready, and opened without a head. Raises UnsupportedModel."""
    try:
        exported = prepare(plan.source, plan.contract)
        return exported, open_graph(write_imported(exported, plan.pad_token_id))
    except BuildError:
        raise
    except Exception as error:  # onnx and ONNX Runtime raise a dozen unrelated classes
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedModel(f"the graph cannot be given the engine's inputs: {reason}") from None


def _texts(lengths: list[int], plan: Plan) -> list[Int32Array]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, plan.vocab_size, length, dtype=np.int32) for length in lengths]


def _compare_pooling(plan: Plan, run: Run, original: Original, texts: list[Int32Array]) -> None:
    """Where a graph gives token states and vectors, what the files make of the first must be the second."""
    if plan.contract.text is None:
        return
    own = np.concatenate([original.run(text, plan.contract.text) for text in texts])
    found = embed(run, texts)
    if own.shape != found.shape or not cosine_similarity(found, own).min() >= SAME_POOLING:
        raise UnsupportedModel(
            f"pooling {plan.choices.pooling!r} ({plan.choices.provenance['pooling']}) gives other vectors than the"
            f" graph's own output {plan.contract.text}: name the right one with --pooling"
        )


def _make(plan: Plan, folder: Path, progress: Progress) -> Bundle:
    started_s = time.perf_counter()
    tokenizer = write_tokenizer(plan.source.checkpoint, plan.choices.max_tokens, plan.vocab_size, folder)
    tokenize = partial(encode, tokenizer)
    rewritten, _ = rewrite(plan, progress)
    exported = rewritten.exported
    sites = find_sites(
        exported, plan.vocab_size, lambda names: open_graph(write_imported(exported, plan.pad_token_id, watched=names))
    )
    graph, precision = _choose_graph(plan, rewritten, sites, tokenize, progress)
    write_model(graph, folder / GRAPH_FILE)
    run, fp32 = open_graph(graph), rewritten.run
    batches = _batch_dependence(plan, run, progress)
    if batches["batch_dependent_texts"]:
        run, fp32 = run_each(run), run_each(fp32)
    write_file(folder / CHECK_FILE, check_vectors(run, fp32, tokenize).to_bytes())
    ordinary = (*plan.texts.calibrate, *plan.texts.hold_out)
    static_embedding = make_static_embedding(run, tokenize, tokenizer, ordinary, [], progress)
    write_file(folder / STATIC_EMBEDDING_FILE, static_embedding.to_bytes())
    texts = tokenize(plan.texts.hold_out)
    vectors = embed(run, texts)
    quality = batches if precision == "fp32" else batches | _cosine(plan, vectors, embed(fp32, texts), progress)
    recipe = _recipe(plan, rewritten, sites, precision) | {"static_embedding": static_embedding.meta}
    bundle = _describe(plan, folder, precision, quality, recipe, vectors)
    write_file(folder / BUNDLE_FILE, bundle.model_dump_json(indent=2).encode())
    progress(f"imported in {time.perf_counter() - started_s:.1f} s")
    return bundle


def _choose_graph(
    plan: Plan, rewritten: Rewritten, sites: Sites, tokenize: Encode, progress: Progress
) -> tuple[onnx.ModelProto, Precision]:
    """The graph in the precision asked for; without one in INT8, or in FP32 where that is faster or all there is."""
    wanted = plan.options.precision
    if wanted == "fp32":
        return rewritten.fp32, "fp32"
    try:
        require_exact_products()
        if not sites.products:
            raise QualityError("the graph has no products of token states with constant FP32 weights to make INT8 of")
    except (InexactProducts, QualityError) as error:
        if wanted == "int8":
            raise QualityError(str(error)) from None
        progress(f"importing in FP32: {error}")
        return rewritten.fp32, "fp32"
    progress(
        f"{len(sites.products)} products over tokens become INT8, {len(sites.left)} others stay in FP32;"
        f" calibrating on {len(plan.texts.calibrate)} texts ({plan.texts.lines})"
    )
    exported, pad_token_id = rewritten.exported, plan.pad_token_id
    seen = observe_imported(exported, pad_token_id, sites, tokenize(with_single_words(plan.texts.calibrate)))
    started_s = time.perf_counter()
    graph = write_imported_int8(exported, pad_token_id, rewritten.head, sites, seen)
    progress(f"weights rounded (GPTQ) in {time.perf_counter() - started_s:.1f} s")
    ratio = speed_ratio(graph, rewritten.fp32, plan.vocab_size)
    progress(f"INT8 computes {ratio:.2f} x as many tokens/s as FP32 here, {SPEED_SHAPE[0]} x {SPEED_SHAPE[1]} tokens")
    if wanted is None and ratio < 1:
        progress("FP32 is faster on this CPU, so the bundle is FP32; --precision int8 makes the smaller one")
        return rewritten.fp32, "fp32"
    return graph, "int8"


def _batch_dependence(plan: Plan, run: Run, progress: Progress) -> dict[str, float]:
    """The two figures of `Bundle.quality`."""
    changed = count_batch_dependent(run, plan.choices.max_tokens, plan.vocab_size)
    checked = len(lengths_to_check(plan.choices.max_tokens))
    progress(f"texts whose vector changes with their batch: {changed} of {checked}")
    if changed:
        progress(
            "BATCH-DEPENDENT: the engine refuses this bundle unless allow_batch_dependent_bundle is set, and then runs"
            " each text alone"
        )
    return {"batch_checked_texts": float(checked), "batch_dependent_texts": float(changed)}


def _cosine(plan: Plan, vectors: Float32Array, exact: Float32Array, progress: Progress) -> dict[str, float]:
    """The other figures. Raises QualityError under the builder's bar."""
    quality = cosine_report(vectors, exact)
    progress(
        f"cosine to the exported FP32 over {len(vectors)} texts: mean {quality['cosine_mean']:.5f},"
        f" 1st percentile {quality['cosine_p1']:.5f}, min {quality['cosine_min']:.5f}"
    )
    if not plan.options.force:
        demand(quality)
    for shortfall in cosine_shortfalls(quality):
        progress(f"UNDER THE ENGINE'S BAR: {shortfall}; see `dejavec model verify`")
    return quality


def _recipe(plan: Plan, rewritten: Rewritten, sites: Sites, precision: Precision) -> dict[str, Any]:
    is_int8 = precision == "int8"
    recipe: dict[str, Any] = {
        "inputs": plan.inputs(),
        "imported": {
            "file": plan.source.graph_file.name,
            "opset": plan.source.opset,
            "output": plan.contract.tokens or plan.contract.text,
            "difference": float(f"{rewritten.difference:.2g}"),
            "int8_products": len(sites.products) if is_int8 else 0,
            "fp32_products": len(sites.left) if is_int8 else len(sites.left) + len(sites.products),
        },
        "opset": OPSET,
        "onnxruntime": ort.__version__,
        "revision": plan.source.checkpoint.revision,
    }
    if plan.source.exporter is not None:
        recipe["imported"]["exporter"] = dict(plan.source.exporter)
    if is_int8:
        recipe["smoothquant_alpha"] = ALPHA
        recipe["weight_rounding"] = {"method": "gptq", "pair_limit": PAIR_LIMIT, "outlier_neurons": OUTLIER_NEURONS}
        recipe["calibration"] = {
            "file": "built-in" if plan.options.calibration_file is None else plan.options.calibration_file.name,
            "texts": len(plan.texts.calibrate),
            "lines": plan.texts.lines.read,
            "skipped_lines": plan.texts.lines.skipped.total(),
        }
    return recipe


def _describe(
    plan: Plan,
    folder: Path,
    precision: Precision,
    quality: dict[str, float],
    recipe: dict[str, Any],
    vectors: Float32Array,
) -> Bundle:
    choices, checkpoint = plan.choices, plan.source.checkpoint
    normalize = choices.normalize
    if plan.contract.tokens is None:
        normalize = bool(np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < UNIT_LENGTH)
    return Bundle(
        model=plan.name,
        source=checkpoint.model_id,
        source_sha256=checkpoint.weights_sha256,
        tokenizer_sha256=sha256_of(folder / TOKENIZER_FILE),
        graph_sha256=sha256_of(folder / GRAPH_FILE),
        static_embedding_sha256=sha256_of(folder / STATIC_EMBEDDING_FILE),
        check_sha256=sha256_of(folder / CHECK_FILE),
        precision=precision,
        dimensions=vectors.shape[1],
        max_tokens=choices.max_tokens,
        vocab_size=plan.vocab_size,
        pooling=choices.pooling,
        normalize=normalize,
        matryoshka_dims=choices.matryoshka_dims,
        matryoshka_layer_norm=choices.matryoshka_layer_norm,
        prompts=choices.prompts,
        default_prompt_name=choices.default_prompt_name,
        recipe=recipe,
        provenance=choices.provenance,
        quality=quality,
        batch_dependent=quality["batch_dependent_texts"] > 0,
    )
