"""A checkpoint of any type that Optimum knows -> an ONNX graph, by Optimum in a process of its own.

    with exported_graph(checkpoint, progress) as source: ...

PyTorch and transformers stay out of this process, and out of every install without the extra `export`. The process has
no network, and code that comes with a checkpoint is never run: a type that needs its own is refused by transformers.
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engine.build.bundle_folder import Progress
from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import UnsupportedModel
from engine.build.imported.source import Source, read_graph

PACKAGES = ("optimum-onnx", "optimum", "transformers", "torch")
GRAPH_NAME = "model.onnx"
LIMIT_S = 3600.0
KEPT_REASON = 1000  # characters of the exporter's last words


def exporter_versions() -> dict[str, str]:
    """Of each package of the extra. Raises UnsupportedModel with the remedy when one is missing."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise UnsupportedModel(
                f"--exporter optimum needs {package}: run `.venv/bin/pip install -e '.[export]'`; on Linux install "
                "PyTorch's build for CPUs before, to save gigabytes of CUDA"
            ) from None
    return versions


@contextmanager
def exported_graph(checkpoint: Checkpoint, progress: Progress) -> Iterator[Source]:
    """The checkpoint's graph for token states, in a folder that is gone afterwards; its weights' hash stays its own.

    Raises UnsupportedModel when Optimum cannot export it, CheckpointError as `read_graph`.
    """
    versions = exporter_versions()
    progress("exporting by " + ", ".join(f"{package} {version}" for package, version in versions.items()))
    with tempfile.TemporaryDirectory(prefix="dejavec-export-") as folder:
        _export(checkpoint.folder, Path(folder))
        source = read_graph(Path(folder) / GRAPH_NAME, checkpoint)
        yield Source(checkpoint, source.graph_file, source.model, source.opset, versions)


def _export(checkpoint: Path, folder: Path) -> None:
    # The library is named because a checkpoint of sentence-transformers would else need that package.
    command = [sys.executable, "-m", "optimum.exporters.onnx", "--model", str(checkpoint), "--library-name"]
    command += ["transformers", "--task", "feature-extraction", "--device", "cpu", "--dtype", "fp32", str(folder)]
    try:
        done = subprocess.run(  # noqa: S603  no shell, and a folder as its only foreign argument
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedModel(f"Optimum did not export {checkpoint} within {LIMIT_S:.0f} s") from None
    if done.returncode != 0 or not (folder / GRAPH_NAME).is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise UnsupportedModel(f"Optimum could not export {checkpoint}: {lines[-1][:KEPT_REASON]}")


def _environment() -> Mapping[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
