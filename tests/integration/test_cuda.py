"""On a real GPU: the model runs there, and no vector depends on its batch. Skipped where ONNX Runtime has no CUDA.

`DEJAVEC_TEST_CHECKPOINT` names another checkpoint than the default model's.
"""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from engine.build import build_bundle, default_checkpoint
from engine.build.verify.quality import check_batches
from engine.bundle import Precision
from engine.model.device import CUDA_PROVIDER
from engine.model.session import Model, open_model
from engine.model.topology import Topology
from engine.protocol import Int32Array
from tests.free_ports import free_port

pytestmark = pytest.mark.skipif(
    CUDA_PROVIDER not in ort.get_available_providers(), reason="ONNX Runtime has no CUDA provider here"
)
CHECKPOINT = os.environ.get("DEJAVEC_TEST_CHECKPOINT")
TOPOLOGY = Topology(cores=2, sessions=2, threads=1)
OPEN_IN_A_PROCESS = """
import sys
from pathlib import Path
from engine.model.session import open_model
from engine.model.topology import Topology
from tests.integration.test_cuda import sample
model = open_model(Path(sys.argv[1]), "cuda", Topology(2, 2, 1))
assert model.device == "cuda"
sys.stdout.write(b"".join(model.runs[0]([text]).tobytes() for text in sample(40)).hex())
"""


def sample(count: int) -> list[Int32Array]:
    """Random token ids of the model's vocabulary, 1 to 256 a text."""
    rng = np.random.default_rng(3)
    return [rng.integers(1000, 30_000, int(length), dtype=np.int32) for length in rng.integers(1, 257, count)]


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    precision: Precision = request.param
    made = tmp_path_factory.mktemp("cuda") / precision
    build_bundle(CHECKPOINT or str(default_checkpoint()), made, precision=precision)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return open_model(folder, "cuda", TOPOLOGY)


def test_the_gpu_is_used(model: Model, folder: Path) -> None:
    """It is asked for, it starts, and its vectors have a fingerprint of their own."""
    on_the_cpu = open_model(folder, "cpu", TOPOLOGY)
    assert (model.device, model.kernel_class) == ("cuda", f"{model.bundle.precision}-cuda")
    assert model.fingerprint != on_the_cpu.fingerprint
    texts = sample(20)
    cosine = (model.runs[0](texts) * on_the_cpu.runs[0](texts)).sum(axis=1)
    assert cosine.min() > 0.9999


def test_no_vector_depends_on_its_batch(model: Model) -> None:
    """To the byte, over the lengths around which kernels change, in batches of 1 to 64 of mixed lengths."""
    report = check_batches(model.runs[0], sample(200), model.bundle.max_tokens, model.bundle.vocab_size)
    assert report.batches > 20
    assert report.changed_lengths == []


def test_runs_side_by_side_do_not_change_each_other(model: Model) -> None:
    """Two threads at a time on one session give the bytes that one gives."""
    texts = sample(120)
    alone = [model.runs[0]([text])[0].tobytes() for text in texts]
    with ThreadPoolExecutor(len(model.runs)) as threads:
        parts = [texts[start : start + 7] for start in range(0, len(texts), 7)]
        jobs = [threads.submit(model.runs[turn % len(model.runs)], part) for turn, part in enumerate(parts)]
    assert [vector.tobytes() for job in jobs for vector in job.result()] == alone


def test_another_process_gives_the_same_bytes(model: Model, folder: Path) -> None:
    """After a restart the cache's vectors are still this engine's."""
    command = [sys.executable, "-c", OPEN_IN_A_PROCESS, str(folder)]
    child = subprocess.run(command, capture_output=True, check=True, timeout=300)
    assert bytes.fromhex(child.stdout.decode()) == b"".join(model.runs[0]([text]).tobytes() for text in sample(40))


async def test_an_engine_process_serves_from_it(folder: Path) -> None:
    """`dejavec engine` with the default device: ready, says where it runs, and tells the GPU's memory."""
    port = free_port()
    command = [sys.executable, "-m", "deploy.cli", "engine", "--bundle", str(folder), "--port", str(port)]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            async with asyncio.timeout(120):
                while not await is_ready(client):
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
            info = (await client.get("/info")).json()
            metrics = (await client.get("/metrics")).text
        assert (info["device"], info["kernel_class"]) == ("cuda", f"{folder.name}-cuda")
        assert "nvidia_gpu_memory_used_bytes{" in metrics
    finally:
        process.terminate()
        await process.wait()


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


def test_an_int8_bundle_stays_on_the_cpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CUDA has no kernels for its products; the log says so."""
    build_bundle(CHECKPOINT or str(default_checkpoint()), tmp_path / "int8", precision="int8")
    assert open_model(tmp_path / "int8", "cuda", TOPOLOGY).kernel_class == "int8-exact"
    assert "build an fp16 bundle" in caplog.text
