"""Where a graph runs, and the name of its kernel class.

CUDA is tried with one run where the graph suits it; else the CPU is used, and the reason logged.

No fallback is silent: vectors of another device have another kernel class, hence another fingerprint, and
that is settled before the first request. ONNX Runtime's own fallback, which swaps a session's provider in the middle
of serving, is therefore off: a GPU that fails later fails its runs, the heartbeat ends the process, and the next
start chooses again.
"""

import contextlib
import io
import logging
import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import onnxruntime as ort

from engine.bundle import Precision
from engine.model.cpu_session import CPU_PROVIDER, require_exact_products
from engine.settings import Device

logger = logging.getLogger(__name__)

CUDA_PROVIDER = "CUDAExecutionProvider"
# The INT8 graph's products are MatMulIntegerToFloat of uint8 x int8; CUDA has only MatMulInteger of int8 x int8. Each
# product would run on the CPU, with copies around it; and MatMulInteger is 1.6 to 6 times slower than an FP16 product
# (`python -m tests.measure_gpu`, H200).
CUDA_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
CUDA_OPTIONS = {
    "use_tf32": "0",  # FP32 means FP32: TF32 has FP16's mantissa, and pooling is FP32 for a reason
    "enable_skip_layer_norm_strict_mode": "1",  # the fused Add and LayerNormalization sums in FP32 as the single one
}
CUDA_FAULT = re.compile(r"(CUDA|CUBLAS|CUDNN) failure \d+: [^;\n]+")  # "CUDA failure 2: out of memory ; GPU=0 ; ..."
MAX_CUDA_RUNS = 2  # one on the GPU, and one whose arrays are being made or read

Provider: TypeAlias = str | tuple[str, dict[str, str]]


class Session(Protocol):
    """What is used of an `onnxruntime.InferenceSession` here."""

    def get_providers(self) -> Sequence[str]:
        """Those it really uses."""
        ...


SessionT = TypeVar("SessionT", bound=Session)


def choose_device(wanted: Device, precision: Precision, providers: Sequence[str]) -> Device:
    """CUDA only where ONNX Runtime has it and the graph suits it; the reason against it is logged."""
    if wanted == "cpu":
        return "cpu"
    log = logger.warning if wanted == "cuda" else logger.info
    if CUDA_PROVIDER not in providers:
        log("running on the CPU: this ONNX Runtime has no CUDA provider (it has %s)", ", ".join(providers))
        return "cpu"
    if precision not in CUDA_PRECISIONS:
        log("running on the CPU: CUDA has no kernels for an %s graph; build an fp16 bundle for it", precision)
        return "cpu"
    return "cuda"


def open_on(
    device: Device,
    open_sessions: Callable[[Sequence[Provider]], Sequence[SessionT]],
    try_run: Callable[[SessionT], object],
    preload: Callable[[], object] = ort.preload_dlls,
) -> tuple[Device, Sequence[SessionT]]:
    """Sessions on `device`, or on the CPU where CUDA does not start or does not survive a first run; and which it was.

    `preload` loads CUDA's libraries from installed packages, where the system has none. Raises what `open_sessions`
    raises on the CPU.
    """
    if device == "cuda":
        fault = _preload_fault(preload)
        try:
            sessions = open_sessions([(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER])
            if CUDA_PROVIDER in sessions[0].get_providers():
                try_run(sessions[0])
                return "cuda", sessions
            fault = fault or "ONNX Runtime left its CUDA provider out"
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes, CUDA's faults among them
            fault = _cuda_fault(str(error))
        logger.warning(
            "running on the CPU: CUDA did not start; check the driver (nvidia-smi) and the CUDA libraries: %s", fault
        )
    return "cpu", open_sessions([CPU_PROVIDER])


def name_kernel_class(precision: Precision, device: Device) -> str:
    """Which arithmetic computes the vectors; part of the fingerprint. Warns of an arithmetic that does not suit.

    Raises InexactProducts for an INT8 graph on a CPU that cannot run it.
    """
    if device == "cuda":
        return f"{precision}-cuda"
    if precision == "int8":
        require_exact_products()
        return "int8-exact"
    if precision == "fp16":
        logger.warning(
            "an fp16 bundle on the CPU is slow and has a fingerprint of its own; an int8 one suits it better"
        )
        return "fp16-cpu"
    return precision


def _cuda_fault(message: str) -> str:
    """CUDA's own words where ONNX Runtime puts a page of C++ names around them."""
    found = CUDA_FAULT.search(message)
    return found[0].strip() if found else message


def _preload_fault(preload: Callable[[], object]) -> str:
    """What `preload` printed of libraries it could not load, in one line; empty when all went well."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            preload()
        except Exception as error:  # a missing library is reported where it is used
            print(error)
    return "; ".join(line.strip() for line in printed.getvalue().splitlines() if line.strip())
