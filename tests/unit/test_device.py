"""CUDA tried and left: where a bundle runs, what its vectors are then called, what log and metrics say of the GPU."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from engine.build import build_bundle
from engine.metrics import EngineMetrics
from engine.model import session as session_module
from engine.model.device import CPU_PROVIDER, CUDA_PROVIDER, MAX_CUDA_RUNS, Provider, name_kernel_class, open_on
from engine.model.session import open_model
from engine.model.topology import Topology
from engine.settings import Device
from tests.tiny_bert import ragged, write_checkpoint


class FakeSession:
    """Uses the providers it was opened with, as ONNX Runtime reports them."""

    def __init__(self, *providers: str) -> None:
        self.providers = providers

    def get_providers(self) -> Sequence[str]:
        return self.providers


def open_as_wished(providers: Sequence[Provider]) -> list[FakeSession]:
    """A machine where every provider starts."""
    return [FakeSession(*(provider if isinstance(provider, str) else provider[0] for provider in providers))]


def open_on_the_cpu_alone(_: Sequence[Provider]) -> list[FakeSession]:
    """ONNX Runtime where CUDA's libraries are missing: it leaves the provider out and says nothing in Python."""
    return [FakeSession(CPU_PROVIDER)]


def fail_on_cuda(providers: Sequence[Provider]) -> list[FakeSession]:
    """A driver that is too old: the provider is there and raises."""
    if len(providers) > 1:
        raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
    return open_as_wished(providers)


def no_run(_: FakeSession) -> None:
    """A first run that goes well."""


def fail_run(_: FakeSession) -> None:
    """A GPU that the kernels were not made for."""
    raise RuntimeError("no kernel image is available for execution on the device")


def fail_for_memory(_: FakeSession) -> None:
    """As ONNX Runtime says it, shortened."""
    raise RuntimeError(
        "/onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall(...) "
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=here ; file=/onnxruntime_src/allocator.cc ; line=72"
    )


def missing_library() -> None:
    """What `onnxruntime.preload_dlls` does without CUDA: it prints."""
    print("Failed to load libcublas.so.13: cannot open shared object file")


def test_cuda_that_starts_is_used(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing to say: the device stands in the start-up lines."""
    device, sessions = open_on("cuda", open_as_wished, no_run, preload=list)
    assert (device, list(sessions[0].get_providers())) == ("cuda", [CUDA_PROVIDER, CPU_PROVIDER])
    assert not caplog.text


@pytest.mark.parametrize(
    ("open_sessions", "try_run", "reason"),
    [
        (fail_on_cuda, no_run, "CUDA driver version is insufficient"),
        (open_on_the_cpu_alone, no_run, "Failed to load libcublas.so.13"),
        (open_as_wished, fail_run, "no kernel image is available"),
        (open_as_wished, fail_for_memory, "the CUDA libraries: CUDA failure 2: out of memory"),
    ],
)
def test_cuda_that_does_not_start_is_left_aloud(
    caplog: pytest.LogCaptureFixture, open_sessions: object, try_run: object, reason: str
) -> None:
    """Driver, libraries or GPU: the engine runs on the CPU, and one line tells why."""
    device, sessions = open_on("cuda", open_sessions, try_run, preload=missing_library)  # type: ignore[arg-type]
    assert (device, list(sessions[0].get_providers())) == ("cpu", [CPU_PROVIDER])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "running on the CPU: CUDA did not start" in record.message
    assert "hostname" not in caplog.text
    assert reason in record.message


def test_the_cpu_is_opened_without_trying_cuda() -> None:
    """No library is loaded and nothing is run beforehand."""

    def never(*_: object) -> None:
        raise AssertionError("not asked for")

    assert open_on("cpu", open_as_wished, never, preload=never)[0] == "cpu"


def test_a_graph_that_no_device_opens_is_an_error() -> None:
    """The CPU's own fault is the caller's to report."""

    def fail(_: Sequence[Provider]) -> list[FakeSession]:
        raise ValueError("not a graph")

    with pytest.raises(ValueError, match="not a graph"):
        open_on("cuda", fail, no_run, preload=list)


@pytest.mark.parametrize(
    ("precision", "device", "name"),
    [
        ("fp16", "cuda", "fp16-cuda"),
        ("fp32", "cuda", "fp32-cuda"),
        ("fp16", "cpu", "fp16-cpu"),
        ("fp32", "cpu", "fp32"),
        ("int8", "cpu", "int8-exact"),
    ],
)
def test_each_arithmetic_has_a_name_of_its_own(precision: str, device: Device, name: str) -> None:
    """The fingerprint is made with it, so that vectors of two of them never meet."""
    assert name_kernel_class(precision, device) == name  # type: ignore[arg-type]


def test_fp16_on_the_cpu_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It works, and is the wrong bundle for a CPU."""
    name_kernel_class("fp16", "cpu")
    assert "slow" in caplog.text


@pytest.fixture
def fp16_bundle(tmp_path: Path) -> Path:
    """A tiny bundle for GPUs."""
    write_checkpoint(tmp_path / "tiny")
    build_bundle(str(tmp_path / "tiny"), tmp_path / "fp16", precision="fp16")
    return tmp_path / "fp16"


def test_an_fp16_bundle_serves_from_the_cpu_under_another_fingerprint(fp16_bundle: Path) -> None:
    """A cache filled by a GPU is not read by the CPU that stands in for it."""
    model = open_model(fp16_bundle, "auto", Topology(1, 1, 1))
    assert (model.device, model.kernel_class) == ("cpu", "fp16-cpu")
    assert model.fingerprint != model.bundle.fingerprint("fp16-cuda")
    vectors = model.runs[0](ragged([3, 9]))
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 32))


@pytest.mark.parametrize(("cores", "runs"), [(1, 1), (2, 2), (8, MAX_CUDA_RUNS)])
def test_a_gpu_gets_one_session_and_few_runs(
    fp16_bundle: Path, monkeypatch: pytest.MonkeyPatch, cores: int, runs: int
) -> None:
    """Its weights are loaded once; TF32 and ONNX Runtime's silent change of provider are off."""
    opened: list[dict[str, object]] = []
    real = ort.InferenceSession

    class CudaSession(real):  # type: ignore[misc,valid-type]
        def __init__(self, graph: Path, options: ort.SessionOptions, **how: object) -> None:
            super().__init__(graph, options, providers=[CPU_PROVIDER])
            opened.append(how)

        def get_providers(self) -> Sequence[str]:
            return [CUDA_PROVIDER, CPU_PROVIDER]

    monkeypatch.setattr(session_module.ort, "InferenceSession", CudaSession)
    monkeypatch.setattr(session_module.ort, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    model = open_model(fp16_bundle, "cuda", Topology(cores, cores, 1))
    assert (model.device, model.kernel_class, len(model.runs)) == ("cuda", "fp16-cuda", runs)
    (how,) = opened
    assert how["enable_fallback"] == 0
    assert how["providers"][0][1]["use_tf32"] == "0"  # type: ignore[index]


def metrics_with(nvml: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """What an engine tells when `import pynvml` gives this."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return EngineMetrics().render().decode()


class FakeNvml:
    """Two GPUs; `fault` makes a call raise."""

    NVMLError = RuntimeError

    def __init__(self, fault: str = "") -> None:
        self.nvmlInit = self.nvmlDeviceGetCount = lambda: 2
        self.nvmlDeviceGetHandleByIndex = lambda index: index
        self.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(used=100 + gpu, total=1000)
        if fault:
            setattr(self, fault, self.fail)

    def fail(self, *_: object) -> None:
        raise self.NVMLError("Driver Not Loaded")


def test_gpu_memory_is_told_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of existing alerts, whose quotient works GPU by GPU."""
    text = metrics_with(FakeNvml(), monkeypatch)
    assert 'nvidia_gpu_memory_used_bytes{gpu="0"} 100.0' in text
    assert 'nvidia_gpu_memory_used_bytes{gpu="1"} 101.0' in text
    assert 'nvidia_gpu_memory_total_bytes{gpu="1"} 1000.0' in text


@pytest.mark.parametrize("nvml", [None, FakeNvml("nvmlInit"), FakeNvml("nvmlDeviceGetMemoryInfo")])
def test_without_nvml_the_other_metrics_are_told(nvml: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, no driver, or a driver that stopped answering."""
    text = metrics_with(nvml, monkeypatch)
    assert "nvidia_gpu" not in text
    assert "embedding_batch_queue_size" in text
