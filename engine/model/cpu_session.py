"""Opens every ONNX Runtime session that runs on a CPU, with integer products that are exact on this machine.

x86-64 without VNNI multiplies uint8 by int8 with VPMADDUBSW, which adds two neighbouring products into 16 bits and
saturates. The builder therefore bounds the weights of neighbouring inputs, so that no two products can exceed
32,767 (see `engine.build.graph.rounding`). `kernel_check.onnx`, beside this module, has such weights at their
extremes:

    a             uint8[rows, 72]   any values
    integers      int32[rows, 40]   MatMulInteger(a, weight)
    floats        float32[rows, 40] MatMulIntegerToFloat(a, weight, 1, 1): the operator the INT8 graphs use
    weight        int8[72, 40]      a copy to compute the right answer from

Where the default kernels give another answer, the check is made again with `session.x64quantprecision`, which turns
constant int8 weights into uint8 ones (exact, about 20 % slower), and every session is opened with it. A CPU that fails
both ways runs FP32 alone: `require_exact_products` raises there.

    open_cpu_session(Path("model.onnx"), threads=1).run(None, inputs)
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

CPU_PROVIDER = "CPUExecutionProvider"
KERNEL_CHECK = Path(__file__).with_name("kernel_check.onnx")
UNSIGNED_WEIGHTS = "session.x64quantprecision"
CHECKED_ROWS = (1, 2, 7)  # kernels differ by the number of rows


Products = Literal["exact", "exact with uint8 weights", "inexact"]


class InexactProducts(Exception):
    """This CPU's uint8 x int8 products are wrong in every way that ONNX Runtime offers."""


def open_cpu_session(graph: Path | bytes, threads: int = 1) -> ort.InferenceSession:
    """A session on the CPU, `threads` threads for each operator (0: one for each core)."""
    return ort.InferenceSession(_source(graph), session_options(threads), providers=[CPU_PROVIDER])


def session_options(threads: int, unsigned_weights: bool | None = None) -> ort.SessionOptions:
    """The options of every session, the same for every shape. `unsigned_weights`: None for what this machine needs.

    Memory is left to ONNX Runtime's default arena, which the batch's bounds keep small. Measured after 24 s of mixed
    lengths on two threads, batches of up to 600 tokens: 169 MB resident with this arena, 215 with one that extends by
    what is requested, 173-216 with none; with batches of up to 4,096 tokens 515 MB.
    """
    if unsigned_weights is None:
        unsigned_weights = integer_products() != "exact"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # plans memory for each shape it sees, and shapes never repeat here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # gateway and Redis share the cores
    if unsigned_weights:
        options.add_session_config_entry(UNSIGNED_WEIGHTS, "1")
    return options


def require_exact_products() -> None:
    """Raises InexactProducts where an INT8 graph must not be run."""
    if integer_products() == "inexact":
        raise InexactProducts(
            "integer products are not exact on this CPU with this ONNX Runtime: build and serve with --precision fp32"
        )


@cache
def integer_products() -> Products:
    """How this machine's products of bounded weights come out, and what they need for it; measured once a process."""
    if _is_exact(session_options(1, unsigned_weights=False)):
        return "exact"
    return "exact with uint8 weights" if _is_exact(session_options(1, unsigned_weights=True)) else "inexact"


def _is_exact(options: ort.SessionOptions) -> bool:
    """Whether the extremes, and random activations, are multiplied exactly."""
    session = ort.InferenceSession(os.fspath(KERNEL_CHECK), options, providers=[CPU_PROVIDER])
    width = session.get_inputs()[0].shape[1]
    rng = np.random.default_rng(0)
    extremes = [np.full((rows, width), 255, np.uint8) for rows in CHECKED_ROWS]
    random = [rng.integers(0, 256, (rows, width), dtype=np.uint8) for rows in CHECKED_ROWS]
    return all(
        _multiplies_exactly(session.run(["integers", "floats", "weight"], {"a": a}), a) for a in extremes + random
    )


def _multiplies_exactly(outputs: Sequence[npt.NDArray[Any]], a: npt.NDArray[np.uint8]) -> bool:
    integers, floats, weight = outputs
    expected = a.astype(np.int32) @ weight.astype(np.int32)
    return bool(np.array_equal(integers, expected) and np.array_equal(floats, expected.astype(np.float32)))


def _source(graph: Path | bytes) -> str | bytes:
    return graph if isinstance(graph, bytes) else os.fspath(graph)
