"""Finding and reading an exported model: its graph, the graph's external data, and the files beside it.

A file, a folder, or a hub id, of which only the graph, its external data and the small files are fetched. Nothing of
the folder is executed, and nothing outside it is read. The one exception is the hub's own cache, where a snapshot's
files are links into one folder: external data may lie where the graph's own file really is.
"""

import hashlib
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from engine.build.checkpoint.files import CONFIG_FILES, Check, Checkpoint, without_weights
from engine.build.checkpoint.hub import HubModel, open_hub_model, parse_hub_id
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.bundle import TOKENIZER_FILE

GRAPH_PLACES = ("onnx/model.onnx", "model.onnx")  # of a folder, the first found
EXPORT_FOLDER = "onnx"
CONFIG_FILE = "config.json"
MAX_BYTES = 1_900_000_000  # of graph and weights; one ONNX file holds 2 GB, and the bundle's is one file


@dataclass(frozen=True, slots=True)
class Source:
    """An exported model. `checkpoint`: the folder's files; its weights' SHA-256 is that of graph and external data.

    model: the graph with all weights inside; opset: its standard operators' version as exported. exporter: the versions
    of what exported it just now from the checkpoint, whose weights' SHA-256 is then that of model.safetensors.
    """

    checkpoint: Checkpoint
    graph_file: Path
    model: onnx.ModelProto
    opset: int
    exporter: Mapping[str, str] | None = None


def open_source(source: str | Path, check: Check = lambda _: None) -> Source:
    """Read the model that `source` names: a `.onnx` file, a folder with one, or a hub id with or without `@revision`.

    `check` sees the small files before the graph is read or fetched, and may raise. Raises CheckpointError for files
    that are missing, damaged or elsewhere, UnsupportedModel above MAX_BYTES.
    """
    path = Path(source).expanduser()
    hub_id = None if path.exists() or path.suffix == ".onnx" else parse_hub_id(str(source))
    if hub_id is not None:
        return _open_hub(open_hub_model(*hub_id), check)
    graph_file, folder = _find(path)
    checkpoint = without_weights(folder, folder.resolve().name, None)
    check(checkpoint)
    return read_graph(graph_file, checkpoint)


def name_of(source: str) -> str:
    """What a model is called that `open_source` would read."""
    path = Path(source).expanduser()
    if not path.exists() and (hub_id := parse_hub_id(source)) is not None:
        return hub_id[0].rsplit("/", 1)[-1]
    return _find(path)[1].resolve().name


def _open_hub(model: HubModel, check: Check) -> Source:
    model.fetch(CONFIG_FILES)
    checkpoint = without_weights(model.folder, model.model_id, model.commit)
    check(checkpoint)
    names = GRAPH_PLACES if model.files is None else {file.path for file in model.files}
    place = next((place for place in GRAPH_PLACES if place in names), None)
    if place is None:
        raise CheckpointError(
            f"{model.model_id} has neither {' nor '.join(GRAPH_PLACES)}; `dejavec model build` makes a bundle from"
            " model.safetensors, with --exporter optimum for types that have no graph here"
        )

    def fetch(names: list[str]) -> None:
        patterns = [escape(name) for name in names]
        _refuse_larger(model.size_of(patterns), f"{model.model_id}: {names[0]}")
        model.fetch(patterns)

    fetch([place])
    graph_file = model.require(place)
    folder = PurePosixPath(place).parent
    return read_graph(graph_file, checkpoint, lambda names: fetch([place, *(str(folder / name) for name in names)]))


def read_graph(
    graph_file: Path, checkpoint: Checkpoint, fetch_external: Callable[[list[str]], None] = lambda _: None
) -> Source:
    """The graph of a checkpoint whose weights are not read. `fetch_external` gets the names of its external files.

    Raises as `open_source`.
    """
    _refuse_larger(graph_file.stat().st_size, str(graph_file))
    content = graph_file.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise CheckpointError(f"{graph_file} is not an ONNX graph") from None
    digest = hashlib.sha256(content)
    del content
    if names := {
        entry.value for tensor in _external(model) for entry in tensor.external_data if entry.key == "location"
    }:
        fetch_external(sorted(names))
    _read_external_data(model, graph_file, digest)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise CheckpointError(f"{graph_file} is not a valid ONNX graph: {_first_line(error)}") from None
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return Source(replace(checkpoint, weights_sha256=digest.hexdigest()), graph_file, model, opset)


def _find(path: Path) -> tuple[Path, Path]:
    """The graph's file, and the folder with the tokenizer and the configuration."""
    if path.is_dir():
        found = next((path / place for place in GRAPH_PLACES if (path / place).is_file()), None)
        if found is None:
            raise CheckpointError(f"{path} has neither {' nor '.join(GRAPH_PLACES)}; name the .onnx file itself")
        path = found
    if path.suffix != ".onnx" or not path.is_file():
        raise CheckpointError(f"{path} is neither an .onnx file nor a folder with one")
    folder = path.parent
    if folder.name == EXPORT_FOLDER and not (folder / TOKENIZER_FILE).is_file():
        folder = folder.parent
    for needed in (TOKENIZER_FILE, CONFIG_FILE):
        if not (folder / needed).is_file():
            raise CheckpointError(f"{folder / needed} is missing; an import needs it beside the graph or its folder")
    return path, folder


def _refuse_larger(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise UnsupportedModel(
            f"{what} and its external data have {size / 1e9:.1f} GB; graphs up to {MAX_BYTES / 1e9:.1f} GB can be"
            " imported, because a bundle's graph is one file"
        )


def _read_external_data(model: onnx.ModelProto, graph_file: Path, digest: "hashlib._Hash") -> None:
    """Put the weights that lie in other files into the graph, and add their bytes to `digest`."""
    external = _external(model)
    total = model.ByteSize() + sum(map(_size, external))
    _refuse_larger(total, str(graph_file))
    for tensor in external:
        tensor.raw_data = _read_slice(tensor, graph_file)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)


def _external(model: onnx.ModelProto) -> list[TensorProto]:
    """The weights that lie in other files."""
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


def _size(tensor: TensorProto) -> int:
    """Bytes of a tensor's values. Raises CheckpointError for a type that has none."""
    try:
        item = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except (KeyError, TypeError):
        raise CheckpointError(f"the weight {tensor.name!r} has an unknown type") from None
    return item * int(np.prod([max(size, 0) for size in tensor.dims], dtype=object))


def _read_slice(tensor: TensorProto, graph_file: Path) -> bytes:
    """A weight's bytes from its external file. Raises CheckpointError."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_file(entries.get("location", ""), graph_file)
    size = _size(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise CheckpointError(f"the weight {tensor.name!r} has no number as its offset or length") from None
    if length != size or offset < 0 or offset + length > path.stat().st_size:
        raise CheckpointError(
            f"the weight {tensor.name!r} needs {size} bytes; {path.name} has no such {length} at {offset}: the file is"
            " cut short, or belongs to another graph"
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _external_file(location: str, graph_file: Path) -> Path:
    """The file of external data that a graph names. Raises CheckpointError for one outside the graph's folder."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if not location or posix.is_absolute() or windows.drive or windows.root or ".." in {*posix.parts, *windows.parts}:
        raise CheckpointError(
            f"{graph_file} names external data at {location!r}, outside its folder; such a file is never read"
        )
    path = graph_file.parent / location
    try:
        real = path.resolve(strict=True)
        is_file = stat.S_ISREG(real.stat().st_mode)
    except OSError:
        raise CheckpointError(f"{path} is missing; {graph_file.name} has its weights there") from None
    inside = real.is_relative_to(graph_file.parent.resolve()) or real.parent == graph_file.resolve().parent
    if not inside or not is_file:
        raise CheckpointError(f"{path} is a link out of its folder, or no plain file; such a file is never read")
    return path


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
