"""Finding and reading an exported model: its graph, the graph's external data, and the files beside it.

Nothing of the folder is executed, and nothing outside it is read. The one exception is the hub's own cache, where a
snapshot's files are links into one folder: external data may lie where the graph's own file really is.
"""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx
import orjson
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import CheckpointError, UnsupportedModel
from engine.bundle import TOKENIZER_FILE

GRAPH_PLACES = ("onnx/model.onnx", "model.onnx")  # of a folder, the first found
EXPORT_FOLDER = "onnx"
CONFIG_FILE = "config.json"
MAX_BYTES = 1_900_000_000  # of graph and weights; one ONNX file holds 2 GB, and the bundle's is one file


@dataclass(frozen=True, slots=True)
class Source:
    """An exported model. `checkpoint`: the folder's files; its weights' SHA-256 is that of graph and external data.

    model: the graph with all weights inside; opset: its standard operators' version as exported.
    """

    checkpoint: Checkpoint
    graph_file: Path
    model: onnx.ModelProto
    opset: int


def open_source(path: Path) -> Source:
    """Read the model that `path` names: a `.onnx` file, or a folder with one.

    Raises CheckpointError for files that are missing, damaged or elsewhere, UnsupportedModel above MAX_BYTES.
    """
    graph_file, folder = _find(path.expanduser())
    config = _config(folder / CONFIG_FILE)
    _refuse_larger(graph_file.stat().st_size, graph_file)
    content = graph_file.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise CheckpointError(f"{graph_file} is not an ONNX graph") from None
    digest = hashlib.sha256(content)
    del content
    _read_external_data(model, graph_file, digest)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise CheckpointError(f"{graph_file} is not a valid ONNX graph: {_first_line(error)}") from None
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    checkpoint = Checkpoint(folder, folder.resolve().name, None, digest.hexdigest(), config)
    return Source(checkpoint, graph_file, model, opset)


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


def _config(path: Path) -> dict[str, object]:
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _refuse_larger(size: int, graph_file: Path) -> None:
    if size > MAX_BYTES:
        raise UnsupportedModel(
            f"{graph_file} and its external data have {size / 1e9:.1f} GB; graphs up to {MAX_BYTES / 1e9:.1f} GB can be"
            " imported, because a bundle's graph is one file"
        )


def _read_external_data(model: onnx.ModelProto, graph_file: Path, digest: "hashlib._Hash") -> None:
    """Put the weights that lie in other files into the graph, and add their bytes to `digest`."""
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    total = model.ByteSize() + sum(map(_size, external))
    _refuse_larger(total, graph_file)
    for tensor in external:
        tensor.raw_data = _read_slice(tensor, graph_file)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        digest.update(tensor.raw_data)


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
