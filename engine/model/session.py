"""A bundle opened with ONNX Runtime: token ids in, vectors out.

Nothing here may depend on the batch: the session's options are the same for every shape, because the bytes
of a vector must be the same alone and in any batch. On a GPU, `engine.model.fixed_shapes` sees to it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.bundle import (
    CHECK_FILE,
    GRAPH_FILE,
    STATIC_EMBEDDING_FILE,
    TOKENIZER_FILE,
    Bundle,
    BundleError,
    check_files,
    parse_tokenizer,
    read_bundle,
)
from engine.feeds import Run, feeds
from engine.model.check_vectors import Agreement, CheckVectors, compare
from engine.model.cpu_session import CPU_PROVIDER, session_options
from engine.model.device import MAX_CUDA_RUNS, Provider, choose_device, name_kernel_class, open_on
from engine.model.fixed_shapes import SHORTEST, lengths_of_runs, rows_of_runs, run_in_shapes
from engine.model.quality_bar import admit, explain_batch_dependence
from engine.model.topology import Topology
from engine.protocol import Float32Array, Int32Array
from engine.settings import Device

AGAIN_BELOW_S = 1.0
HEARTBEAT_IDS = (1, 8, 15, 22, 29, 36, 43, 50)  # any will do


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle ready to run: `runs` may be called at the same time, each from a thread of its own."""

    bundle: Bundle
    kernel_class: str
    device: str
    tokenizer_json: bytes
    static_embedding: bytes  # the file's content, for the semantic tier of gateways
    runs: tuple[Run, ...]
    agreement: Agreement
    longest_run_s: float  # what one run of the longest text took

    @property
    def fingerprint(self) -> str:
        """Names the vectors these runs give."""
        return self.bundle.fingerprint(self.kernel_class)


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run takes: `fixed_s` + the sum over its texts of n (1 + n / `double_cost_tokens`) / `tokens_per_s`."""

    fixed_s: float
    tokens_per_s: float
    double_cost_tokens: float

    @property
    def fixed_tokens(self) -> float:
        """The fixed cost as tokens that could be computed in its time."""
        return self.fixed_s * self.tokens_per_s


def open_model(
    folder: Path,
    device: Device,
    topology: Topology,
    *,
    allow_unverified: bool = False,
    allow_batch_dependent: bool = False,
) -> Model:
    """Read, check and open a bundle. Raises BundleError.

    `allow_unverified` opens one that is under the bar; `allow_batch_dependent` one whose texts have to run alone.
    """
    bundle = read_bundle(folder)
    check_files(folder, bundle)
    if bundle.batch_dependent and not allow_batch_dependent:
        raise BundleError(explain_batch_dependence(folder, bundle))
    check = CheckVectors.from_bytes((folder / CHECK_FILE).read_bytes())
    _check_vocabulary(folder, bundle)
    text = heartbeat_text(1, bundle.vocab_size)
    device = choose_device(device, bundle.precision, ort.get_available_providers())
    try:
        device, sessions = open_on(
            device,
            partial(_open_sessions, folder / GRAPH_FILE, topology),
            lambda session: run_of(session)([text]),
        )
        kernel_class = name_kernel_class(bundle.precision, device)
        runs = tuple(_runs_of(sessions, device, bundle))
        agreement = compare(runs[0], check)
        longest_run_s = _check_bounds(runs[0], bundle)
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        raise BundleError(f"ONNX Runtime cannot run the graph in {folder}: {error}") from error
    admit(folder, bundle, kernel_class, agreement, allow_unverified)
    tokenizer_json, static_embedding = (
        (folder / name).read_bytes() for name in (TOKENIZER_FILE, STATIC_EMBEDDING_FILE)
    )
    return Model(bundle, kernel_class, device, tokenizer_json, static_embedding, runs, agreement, longest_run_s)


def _check_vocabulary(folder: Path, bundle: Bundle) -> None:
    """Raises BundleError when the tokenizer gives ids that the engine would refuse, or has no room for a token."""
    tokenizer = parse_tokenizer((folder / TOKENIZER_FILE).read_bytes(), bundle.max_tokens)
    largest = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=0)
    if largest >= bundle.vocab_size:
        raise BundleError(
            f"{folder}: vocab_size: {bundle.vocab_size}, but {TOKENIZER_FILE} has ids up to {largest}; "
            "build the bundle again"
        )


def _check_bounds(run: Run, bundle: Bundle) -> float:
    """Compute the longest text there may be, of the largest id, and return the seconds it took.

    Raises what ONNX Runtime raises, ValueError.
    """
    started_s = time.perf_counter()
    longest = np.full(bundle.max_tokens, bundle.vocab_size - 1, np.int32)
    try:
        vectors = run([longest])
    except Exception as error:
        raise ValueError(
            f"max_tokens {bundle.max_tokens} or vocab_size {bundle.vocab_size} is more than the graph has: {error}"
        ) from error
    if vectors.shape != (1, bundle.dimensions):
        raise ValueError(f"dimensions: {bundle.dimensions}, but the graph gives {vectors.shape[-1]}")
    return time.perf_counter() - started_s


def measure_run_cost(model: Model, repeats: int = 7) -> RunCost:
    """Time runs of one short text, of many and of the longest, and fit what a run takes; warms every session up."""
    short, many = 8, 32 if model.device == "cpu" else 4 * rows_of_runs(SHORTEST)
    text = heartbeat_text(short, model.bundle.vocab_size)
    for run in model.runs:
        run([text])
        run([text] * many)
    one_s = min(_time(model.runs[0], [text]) for _ in range(repeats))
    many_s = min(_time(model.runs[0], [text] * many) for _ in range(repeats))
    per_token_s = max((many_s - one_s) / (short * (many - 1)), 1e-9)
    fixed_s = max(one_s - short * per_token_s, 0.0)
    return RunCost(fixed_s, 1 / per_token_s, _double_cost_tokens(model, fixed_s, per_token_s))


def _double_cost_tokens(model: Model, fixed_s: float, per_token_s: float) -> float:
    """The length at which attention takes as much as the rest, from the longest text; infinite where that has none."""
    longest = model.bundle.max_tokens
    longest_s = model.longest_run_s
    if longest_s < AGAIN_BELOW_S:  # the first run of a length also gets its memory
        text = heartbeat_text(longest, model.bundle.vocab_size)
        longest_s = min(longest_s, *(_time(model.runs[0], [text]) for _ in range(2)))
    attention_s = longest_s - fixed_s - longest * per_token_s
    return longest**2 * per_token_s / attention_s if attention_s > 0 else math.inf


def heartbeat_text(length: int, vocab_size: int) -> Int32Array:
    """int32[length] token ids that the vocabulary has."""
    return np.resize(np.array(HEARTBEAT_IDS, np.int32), length) % np.int32(vocab_size)


def _time(run: Run, texts: Sequence[Int32Array]) -> float:
    started_s = time.perf_counter()
    run(texts)
    return time.perf_counter() - started_s


def _open_sessions(graph: Path, topology: Topology, providers: Sequence[Provider]) -> list[ort.InferenceSession]:
    """One session for each run; one for all, sharing the weights, on a GPU or where runs need no thread pools."""
    on_gpu = providers[0] != CPU_PROVIDER
    runs = min(topology.sessions, MAX_CUDA_RUNS) if on_gpu else topology.sessions
    count = 1 if on_gpu or topology.threads == 1 else runs
    options = [session_options(topology.threads) for _ in range(count)]
    sessions = [ort.InferenceSession(graph, each, providers=providers, enable_fallback=0) for each in options]
    return sessions * (runs // count)


def _runs_of(sessions: Sequence[ort.InferenceSession], device: Device, bundle: Bundle) -> list[Run]:
    """Each session as a run; on a GPU in fixed shapes, each computed once, which chooses its kernels."""
    if bundle.batch_dependent:
        return list(map(run_each_of, sessions))
    if device == "cpu":
        return list(map(run_of, sessions))
    runs = [run_in_shapes(session, bundle.max_tokens) for session in sessions]
    for length in lengths_of_runs(bundle.max_tokens):
        runs[0]([heartbeat_text(length, bundle.vocab_size)])
    return runs


def run_of(session: ort.InferenceSession) -> Run:
    """A session as a function from texts, token ids int32[length] each, to their vectors float32[n, dimensions]."""
    output = [session.get_outputs()[0].name]

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        vectors: Float32Array = session.run(output, feeds(texts))[0]
        return vectors

    return run


def run_each_of(session: ort.InferenceSession) -> Run:
    """As `run_of`, for a graph whose vectors change with their batch: every text in a run of its own, unpadded."""
    output = [session.get_outputs()[0].name]

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        vectors: Float32Array = np.concatenate([session.run(output, feeds([text], 1))[0] for text in texts])
        return vectors

    return run
