"""`dejavec model build --exporter optimum`: a checkpoint's graph by another process, then an import of it.

Optimum itself is not installed here: its process is a stand-in that writes the graph as it does, or fails as it does.
"""

import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from engine.build import build_bundle
from engine.build.cli import model as model_command
from engine.build.errors import UnsupportedModel
from engine.build.imported import optimum
from engine.build.imported.importer import export_bundle
from engine.build.imported.plan import ImportOptions
from engine.build.running import embed, open_graph
from engine.build.verify.reference import open_reference
from engine.bundle import read_bundle, sha256_of
from tests.exported_bert import export
from tests.tiny_bert import ragged, tensors, write_checkpoint

FP32 = ImportOptions(precision="fp32")
TEXTS = ragged([2, 3, 5, 9, 24, 7])
VERSIONS = {"optimum-onnx": "0.1.0", "optimum": "2.1.0", "transformers": "4.57.6", "torch": "2.13.0"}
COMMAND_NOT_FOUND = (
    "WARNING: beside the point\nValueError: Trying to export a who model, that is a custom architecture\n"
)


class StandInOptimum:
    """Takes the command's place: writes the tiny BERT's graph, or ends with the words it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.failure = ""
        monkeypatch.setattr(importlib.metadata, "version", VERSIONS.__getitem__)
        monkeypatch.setattr(subprocess, "run", self.run)

    def run(self, command: list[str], *, env: dict[str, str], **options: Any) -> "subprocess.CompletedProcess[str]":
        assert options["stdin"] == subprocess.DEVNULL
        assert options["timeout"] == optimum.LIMIT_S
        self.commands.append(command)
        self.environments.append(env)
        if self.failure:
            return subprocess.CompletedProcess(command, 1, "", self.failure)
        folder = Path(command[command.index("--model") + 1])
        config = write_checkpoint(folder)
        export(tensors(config), config, Path(command[-1]) / "model.onnx", opset=18)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> StandInOptimum:
    """Installed, as it seems."""
    return StandInOptimum(monkeypatch)


def build(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(model_command, ["build", str(folder), "--exporter", "optimum", *options])


def test_without_the_extra_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read."""

    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    result = build(tmp_path / "no such folder", "--out", str(tmp_path / "bundle"))
    assert result.exit_code == 2
    assert "`.venv/bin/pip install -e '.[export]'`" in result.output


def test_the_graph_is_imported_and_what_made_it_recorded(tmp_path: Path, exporter: StandInOptimum) -> None:
    """The checkpoint's own vectors, its own hash; opset and versions in the bundle; no trace of the graph's folder."""
    write_checkpoint(tmp_path / "tiny")
    bundle = export_bundle(str(tmp_path / "tiny"), tmp_path / "bundle", FP32)
    assert read_bundle(tmp_path / "bundle") == bundle
    assert bundle.recipe["imported"]["exporter"] == bundle.recipe["inputs"]["exporter"] == VERSIONS
    assert bundle.recipe["imported"]["opset"] == 18
    assert bundle.source_sha256 == sha256_of(tmp_path / "tiny" / "model.safetensors")
    build_bundle(str(tmp_path / "tiny"), tmp_path / "native", precision="fp32")
    ours, native = (
        embed(open_graph((tmp_path / name / "model.onnx").read_bytes()), TEXTS) for name in ("bundle", "native")
    )
    np.testing.assert_allclose(ours, native, atol=1e-5)
    (command,), (environment,) = exporter.commands, exporter.environments
    assert "--trust-remote-code" not in command
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert not os.path.exists(command[-1])


def test_verify_exports_again_to_compare(tmp_path: Path, exporter: StandInOptimum) -> None:
    """The reference is the exported graph in FP32, of the checkpoint that is named."""
    write_checkpoint(tmp_path / "tiny")
    bundle = export_bundle(str(tmp_path / "tiny"), tmp_path / "bundle", FP32)
    reference = open_reference(bundle, str(tmp_path / "tiny"), 1)
    graph = open_graph((tmp_path / "bundle" / "model.onnx").read_bytes())
    np.testing.assert_allclose(reference.run(TEXTS), embed(graph, TEXTS), atol=1e-5)
    assert len(exporter.commands) == 2


def test_a_type_that_optimum_cannot_export_is_refused_by_its_last_words(
    tmp_path: Path, exporter: StandInOptimum
) -> None:
    """What it wrote before is of no use, and its trace none either."""
    write_checkpoint(tmp_path / "tiny")
    exporter.failure = COMMAND_NOT_FOUND
    with pytest.raises(UnsupportedModel, match=r"could not export .*: ValueError: Trying to export a who model"):
        export_bundle(str(tmp_path / "tiny"), tmp_path / "bundle", FP32)
    assert not (tmp_path / "bundle").exists()


def test_what_the_files_rule_out_is_refused_before_the_export(tmp_path: Path, exporter: StandInOptimum) -> None:
    """As for a build: by config.json and the files beside it."""
    write_checkpoint(tmp_path / "tiny", pooling="pooling_mode_max_tokens")
    result = build(tmp_path / "tiny", "--out", str(tmp_path / "bundle"))
    assert result.exit_code == 2
    assert "pooling_mode_max_tokens" in result.output
    assert not exporter.commands


@pytest.mark.parametrize("options", [["--precision", "fp16"], ["--static-embedding-corpus", "texts.txt"]])
def test_options_that_do_not_go_with_it_are_refused(tmp_path: Path, options: list[str]) -> None:
    """Rather than ignored."""
    result = build(tmp_path, *options)
    assert result.exit_code == 2
    assert "do not go with --exporter" in result.output
    result = CliRunner().invoke(model_command, ["build", str(tmp_path), "--max-tokens", "16"])
    assert "--max-tokens goes with --exporter" in result.output
