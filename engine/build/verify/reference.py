"""The FP32 graph a bundle is compared with: built again, by the same builder, from the checkpoint it came from."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from engine.build.checkpoint.choices import dense_folders
from engine.build.checkpoint.dense import read_dense
from engine.build.checkpoint.files import (
    DEFAULT_SHA256,
    WEIGHTS_FILE,
    Checkpoint,
    default_checkpoint,
    open_checkpoint,
)
from engine.build.checkpoint.hub import parse_hub_id
from engine.build.checkpoint.shape import read_shape
from engine.build.checkpoint.weights import read_weights
from engine.build.errors import CheckpointError
from engine.build.graph.head import Head
from engine.build.graph.quantize import write_fp32
from engine.build.imported.importer import rewrite
from engine.build.imported.optimum import exported_graph
from engine.build.imported.original import run_each
from engine.build.imported.plan import ImportOptions, Plan, plan_graph, plan_import
from engine.build.imported.source import GRAPH_PLACES
from engine.build.running import open_graph
from engine.bundle import Bundle
from engine.feeds import Run, feeds
from engine.protocol import Float32Array, Int32Array

EXPORTED_PLACE = GRAPH_PLACES[0]


@dataclass(frozen=True, slots=True)
class Reference:
    """The FP32 graph, ready to run on the CPU; `origin`: what it was built from, in words."""

    run: Run
    origin: str
    graph_bytes: int


def open_reference(bundle: Bundle, given: str | None, threads: int) -> Reference:
    """Build and open the FP32 graph from the checkpoint `given`, else from the bundle's own where it is found here.

    Raises CheckpointError when there is none, or when it is not the one the bundle was made from.
    """
    if "imported" in bundle.recipe:
        return _open_exported(bundle, given, threads)
    checkpoint = open_checkpoint(given or str(find_checkpoint(bundle)))
    if checkpoint.weights_sha256 != bundle.source_sha256:
        raise CheckpointError(
            f"{checkpoint.folder} has other weights (SHA-256 {checkpoint.weights_sha256[:16]}…) than the checkpoint "
            f"the bundle was made from ({bundle.source}, {bundle.source_sha256[:16]}…)"
        )
    content = _graph(checkpoint, bundle)
    graph = open_graph(content, threads)

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        return graph(feeds(texts))["embeddings"]

    return Reference(run, f"{checkpoint.model_id} ({checkpoint.folder})", len(content))


def _open_exported(bundle: Bundle, given: str | None, threads: int) -> Reference:
    """The FP32 graph of an imported bundle, from the exported graph at `given`."""
    with ExitStack() as stack:
        plan = _plan(bundle, given, stack)
        return _open_plan(plan, bundle, threads)


def _plan(bundle: Bundle, given: str | None, stack: ExitStack) -> Plan:
    """How the bundle was imported; where its graph was exported first, that is done again. Raises BuildError."""
    options = ImportOptions(max_tokens=bundle.max_tokens)
    if bundle.recipe["imported"].get("exporter") is not None:
        checkpoint = open_checkpoint(given or str(find_checkpoint(bundle)))
        plan = plan_graph(stack.enter_context(exported_graph(checkpoint, lambda _: None)), options)
    else:
        if given is None and (graph := _cached(bundle, EXPORTED_PLACE)) is not None:
            given = str(graph)
        if given is None:
            raise CheckpointError(f"name the exported graph or folder that {bundle.source!r} was, with --checkpoint")
        plan = plan_import(given, options)
    if plan.source.checkpoint.weights_sha256 != bundle.source_sha256:
        raise CheckpointError(f"{plan.source.checkpoint.folder} is not what the bundle was made from")
    return plan


def _open_plan(plan: Plan, bundle: Bundle, threads: int) -> Reference:
    if plan.contract.tokens is not None:
        plan = replace(plan, choices=replace(plan.choices, pooling=bundle.pooling, normalize=bundle.normalize))
    content: bytes = rewrite(plan, lambda _: None)[0].fp32.SerializeToString()
    graph = open_graph(content, threads)
    if bundle.batch_dependent:
        graph = run_each(graph)

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        return graph(feeds(texts))["embeddings"]

    return Reference(run, str(plan.source.graph_file), len(content))


def find_checkpoint(bundle: Bundle) -> Path:
    """The checkpoint's folder on this machine, without a network: the default data package or the hub's cache.

    Raises CheckpointError.
    """
    if bundle.source_sha256 == DEFAULT_SHA256:
        return default_checkpoint()
    if (weights := _cached(bundle, WEIGHTS_FILE)) is not None:
        return weights.parent
    raise CheckpointError(f"the checkpoint {bundle.source!r} is not on this machine; name it with --checkpoint")


def _cached(bundle: Bundle, name: str) -> Path | None:
    """A file of the bundle's own model in the hub's cache."""
    if parse_hub_id(bundle.source) is None:
        return None
    try:
        path = try_to_load_from_cache(bundle.source, name, revision=bundle.recipe.get("revision"))
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _graph(checkpoint: Checkpoint, bundle: Bundle) -> bytes:
    shape = read_shape(checkpoint.config)
    dense = read_dense(checkpoint, dense_folders(checkpoint), shape.hidden)
    head = Head(bundle.pooling, bundle.normalize, dense)
    content: bytes = write_fp32(read_weights(checkpoint.folder / WEIGHTS_FILE, shape), head).SerializeToString()
    return content
