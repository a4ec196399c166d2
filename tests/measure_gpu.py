"""What a GPU computes: `python -m tests.measure_gpu [CHECKPOINT]`; the default model's checkpoint without one.

Prints tables in Markdown: texts and tokens a second by the shape of a run, FP16 and FP32, beside PyTorch's FP16 where
PyTorch is installed; what a batch changes in runs of fixed shapes and in runs of the batch's own shape; what larger
runs would gain and cost; and INT8 products beside FP16 ones, which is why INT8 is not used there. Wall time, the best
of several runs.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.build import build_bundle, default_checkpoint
from engine.build.graph.onnx_writer import GraphWriter
from engine.build.verify.speed import best_times, random_texts
from engine.bundle import GRAPH_FILE, Precision
from engine.feeds import Run
from engine.model.cpu_session import CPU_PROVIDER, session_options
from engine.model.device import CUDA_OPTIONS, CUDA_PROVIDER
from engine.model.fixed_shapes import lengths_of_runs, rows_of_runs, run_in_shapes
from engine.model.session import open_model, run_of
from engine.model.topology import Topology
from engine.protocol import Int32Array

PROVIDERS = [(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER]
VOCABULARY = 30_000  # token ids are below
RUNS_OF_TOKENS = (4096, 8192, 16_384, 32_768)
PRODUCTS = ((384, 1536), (1024, 4096))  # inputs, outputs: a small and a large model's feed-forward
PRODUCT_ROWS = (512, 4096, 16_384)
PRODUCTS_A_RUN = 8
TEXTS = 64


def speed_rows(runs: dict[str, Run], max_tokens: int) -> Iterator[str]:
    yield "| texts x tokens | " + " | ".join(f"{name}, ms | texts/s | tokens/s" for name in runs) + " |"
    yield "| --- |" + " --- | --- | --- |" * len(runs)
    shapes = [(1, 16), *((rows_of_runs(length), length) for length in lengths_of_runs(max_tokens))]
    for batch, length in [*shapes, (1024, 16), (1024, 64)]:
        texts = random_texts([length] * batch, VOCABULARY)
        best_s = best_times({name: partial(run, texts) for name, run in runs.items()}, time.perf_counter)
        cells = [f"{s * 1e3:.2f} | {batch / s:,.0f} | {batch * length / s:,.0f}" for s in best_s.values()]
        yield f"| {batch} x {length} | " + " | ".join(cells) + " |"


def dependence_rows(kinds: dict[str, Run]) -> Iterator[str]:
    """How many of TEXTS texts change a byte in batches of each size."""
    yield f"| batches of | {' | '.join(f'{name}: changed of {TEXTS}, lowest cosine' for name in kinds)} |"
    yield "| --- |" + " --- |" * len(kinds)
    texts = random_texts(np.random.default_rng(1).integers(3, 250, TEXTS).tolist(), VOCABULARY)
    alone = {name: [run([text])[0] for text in texts] for name, run in kinds.items()}
    for size in (2, 8, 32):
        cells = []
        for name, run in kinds.items():
            together = [vector for at in range(0, TEXTS, size) for vector in run(texts[at : at + size])]
            changed = sum(a.tobytes() != b.tobytes() for a, b in zip(alone[name], together, strict=True))
            cells.append(f"{changed}, {min(float(a @ b) for a, b in zip(alone[name], together, strict=True)):.7f}")
        yield f"| {size} | {' | '.join(cells)} |"


def run_size_rows(session: ort.InferenceSession, max_tokens: int) -> Iterator[str]:
    """Milliseconds of FP16 by the size of a run: what larger ones gain in bulk, and cost a lone text."""
    shapes = [(1, 9), (1, 200), (128, 16), (1024, 16), (1024, 64), (256, 256)]
    batches = [random_texts([length] * texts, VOCABULARY) for texts, length in shapes]
    yield "| tokens of a run, texts x tokens, ms | " + " | ".join(f"{n} x {length}" for n, length in shapes) + " |"
    yield "| --- |" + " --- |" * len(shapes)
    for tokens in RUNS_OF_TOKENS:
        run = run_in_shapes(session, max_tokens, tokens)
        calls = {str(shape): partial(run, batch) for shape, batch in zip(shapes, batches, strict=True)}
        spent = [f"{s * 1e3:.2f}" for s in best_times(calls, time.perf_counter).values()]
        yield f"| {tokens:,} | {' | '.join(spent)} |"


def product_rows() -> Iterator[str]:
    yield "| product | INT8 (MatMulInteger), us | FP16, us | FP32, us |"
    yield "| --- | --- | --- | --- |"
    for inputs, outputs in PRODUCTS:
        for rows in PRODUCT_ROWS:
            spent = [product_s(kind, rows, inputs, outputs) * 1e6 for kind in (np.int8, np.float16, np.float32)]
            yield f"| {rows} x {inputs} x {outputs} | {' | '.join(f'{us:.0f}' for us in spent)} |"


def product_s(kind: type, rows: int, inputs: int, outputs: int) -> float:
    """Seconds of one product with what it takes and gives on the GPU."""
    graph = GraphWriter("product")
    a = graph.input("a", kind, ["rows", inputs])
    operator, made = ("MatMulInteger", np.int32) if kind is np.int8 else ("MatMul", kind)
    rng = np.random.default_rng(0)
    for index in range(PRODUCTS_A_RUN):
        weight = graph.constant(f"w{index}", rng.integers(-127, 127, (inputs, outputs)).astype(kind))
        graph.output(graph.op(operator, a, weight), f"y{index}", made, ["rows", outputs])
    options = session_options(1)
    session = ort.InferenceSession(graph.model().SerializeToString(), options, providers=PROVIDERS)
    bound = session.io_binding()
    bound.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(np.ones((rows, inputs), kind), "cuda", 0))
    for index in range(PRODUCTS_A_RUN):
        bound.bind_output(f"y{index}", "cuda")
    call = partial(session.run_with_iobinding, bound)
    return best_times({"": call}, time.perf_counter)[""] / PRODUCTS_A_RUN


def torch_run(checkpoint: Path) -> Run | None:
    """The usual way on a GPU: transformers in FP16, mean pooling; None without PyTorch, transformers or a GPU."""
    try:
        import torch
        from transformers import AutoModel
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float16).to("cuda").eval()

    def run(texts: Sequence[Int32Array]) -> np.ndarray:
        longest = max(map(len, texts))
        ids = torch.zeros((len(texts), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.from_numpy(text)
            mask[row, : len(text)] = 1
        with torch.inference_mode():
            ids, mask = ids.to("cuda"), mask.to("cuda")
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return np.asarray(torch.nn.functional.normalize(pooled, dim=1).cpu().numpy())

    return run


def main() -> None:
    """Build the bundles, open them on the GPU, measure."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        sys.exit("ONNX Runtime has no CUDA provider here; see GPU in docs/operations.md")
    checkpoint = Path(sys.argv[1]) if len(sys.argv) > 1 else default_checkpoint()
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        precisions: tuple[Precision, ...] = ("fp16", "fp32")
        for precision in precisions:
            bundle = build_bundle(str(checkpoint), Path(folder) / precision, precision=precision)
            model = open_model(Path(folder) / precision, "cuda", Topology(2, 2, 1))
            if model.device != "cuda":
                sys.exit("CUDA did not start: see the log above")
            runs[f"{precision.upper()}"] = model.runs[0]
        session = ort.InferenceSession(Path(folder) / "fp16" / GRAPH_FILE, session_options(1), providers=PROVIDERS)
    beside = torch_run(checkpoint)
    print(f"\n{bundle.model}, onnxruntime {ort.__version__}\n")
    contenders = {**runs, **({"PyTorch FP16": beside} if beside else {})}
    print("\n".join(speed_rows(contenders, bundle.max_tokens)), end="\n\n")
    shapes: dict[str, Run] = {"FP16 in fixed shapes": runs["FP16"], "FP16 in the batch's shape": run_of(session)}
    lone = random_texts([9], VOCABULARY)
    for name, spent_s in best_times(
        {name: partial(run, lone) for name, run in shapes.items()}, time.perf_counter
    ).items():
        print(f"{name}: a lone text of 9 tokens in {spent_s * 1e3:.2f} ms")
    print()
    print("\n".join(dependence_rows(shapes | ({"PyTorch FP16": beside} if beside else {}))), end="\n\n")
    print("\n".join(run_size_rows(session, bundle.max_tokens)), end="\n\n")
    print("\n".join(product_rows()))


if __name__ == "__main__":
    main()
