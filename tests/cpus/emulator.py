"""Which kinds of CPU can be emulated here, and how a Python runs on one.

answer, vectors = compute(NATIVE, THIS_PYTHON, job, folder)
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.protocol import Float32Array
from tests.cpus.worker import Answer, Job

ROOT = Path(__file__).parents[2]
QEMU_PACKAGE = "qemu-user"
TIMEOUT_S = 1800.0
# Choices made for this machine's CPU; on another they would name instructions that it does not have.
DROPPED_PREFIXES = ("OPENBLAS_", "NPY_", "PYTHON", "ORT_")
# QEMU 7.2 ends numpy's AVX2 sort in a segmentation fault. This turns off numpy's own AVX2 code, not ONNX Runtime's.
NUMPY_WITHOUT_AVX2 = {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}


@dataclass(frozen=True, slots=True)
class Cpu:
    """A kind of CPU by QEMU's name. `machine`: its architecture; empty for the CPU this machine has."""

    name: str
    machine: str = ""
    has_avx2: bool = False


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter with numpy, orjson and ONNX Runtime. `root` holds the system libraries of another architecture."""

    executable: Path
    root: Path | None = None
    packages: Path | None = None


class EmulationFailed(Exception):
    """The emulated process ended badly; the message holds the end of what it printed."""


NATIVE = Cpu("native")
X86 = (Cpu("Haswell", "x86_64", has_avx2=True), Cpu("Nehalem", "x86_64"))
ARM64 = tuple(Cpu(name, "aarch64") for name in ("cortex-a72", "neoverse-n1", "max"))
THIS_PYTHON = Python(Path(sys.executable))


def reason_to_skip(cpu: Cpu) -> str:
    """Why `cpu` cannot be emulated here and what to do about it; empty when it can."""
    if not cpu.machine:
        return ""
    if _emulator(cpu) is None:
        return f"qemu-{cpu.machine} is not installed (on Debian and Ubuntu: apt install {QEMU_PACKAGE})"
    if cpu.machine == "x86_64" and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"{cpu.name} runs this Python, which must be one for Linux on x86-64"
    return ""


def compute(
    cpu: Cpu, python: Python, job: Job, folder: Path, timeout_s: float = TIMEOUT_S
) -> tuple[Answer, Float32Array]:
    """Do a job on `cpu`, with its files in `folder`. Raises EmulationFailed."""
    folder.mkdir(parents=True, exist_ok=True)
    job_file, vectors_file = folder / "job.json", folder / f"{cpu.name}.npy"
    job_file.write_text(json.dumps(asdict(job)), encoding="utf-8")
    output = run_python(cpu, python, ["-m", "tests.cpus.worker", str(job_file), str(vectors_file)], timeout_s)
    return Answer(**json.loads(output.splitlines()[-1])), np.load(vectors_file)


def run_python(cpu: Cpu, python: Python, arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """What Python prints on `cpu`, started in the repository's root. Raises EmulationFailed."""
    command = [*_emulation(cpu, python), str(python.executable), *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=_environment(cpu, python),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EmulationFailed(f"{cpu.name}: not ready after {timeout_s:.0f} s") from None
    if done.returncode != 0:
        told = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line and "TCG doesn't" not in line]
        raise EmulationFailed(f"{cpu.name}: exit status {done.returncode}\n" + "\n".join(told[-12:]))
    return done.stdout


def _emulation(cpu: Cpu, python: Python) -> list[str]:
    if not cpu.machine:
        return []
    libraries = [] if python.root is None else ["-L", str(python.root)]
    return [_emulator(cpu) or f"qemu-{cpu.machine}", *libraries, "-cpu", cpu.name]


def _emulator(cpu: Cpu) -> str | None:
    return shutil.which(f"qemu-{cpu.machine}") or shutil.which(f"qemu-{cpu.machine}-static")


def _environment(cpu: Cpu, python: Python) -> dict[str, str]:
    """This process's, without what was chosen for this CPU or this interpreter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED_PREFIXES)}
    if python.packages is not None:
        kept["PYTHONPATH"] = str(python.packages)
    return kept | {"OPENBLAS_NUM_THREADS": "1"} | (NUMPY_WITHOUT_AVX2 if cpu.has_avx2 else {})
