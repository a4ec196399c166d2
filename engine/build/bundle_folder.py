"""The folder that a bundle is made in, for checkpoints and for exported graphs: made once, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from filelock import FileLock
from tokenizers import Tokenizer

from engine.build.checkpoint.choices import Choices
from engine.build.checkpoint.files import Checkpoint
from engine.build.errors import BuildError, CheckpointError
from engine.bundle import TOKENIZER_FILE, Bundle, BundleError, check_files, parse_tokenizer, read_bundle
from engine.protocol import Int32Array

BUILDING_SUFFIX = ".building"

Progress = Callable[[str], None]


def made_once(
    out: Path, inputs: Mapping[str, Any], force: bool, make: Callable[[Path], Bundle], progress: Progress
) -> Bundle:
    """The bundle at `out`, by `make` in a new folder that takes its place.

    Nothing is done when `out` is a whole bundle whose recipe has the same inputs, unless `force`. Several that make one
    `out` wait for each other. Raises what `make` raises, and BuildError where nothing can be written.
    """
    out = out.expanduser().absolute()
    with _locked(out):
        if not force and (existing := _existing(out, inputs)) is not None:
            progress("the bundle is already there, made from the same inputs")
            return existing
        with _replaced_folder(out) as folder:
            return make(folder)


def report_choices(choices: Choices, progress: Progress) -> None:
    """Each choice and where it is from."""
    for name, provenance in choices.provenance.items():
        progress(f"{name}: {getattr(choices, name)!r}, from {provenance}")


def write_tokenizer(checkpoint: Checkpoint, max_tokens: int, vocab_size: int, folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer without its padding, cut at the model's own limit whatever the file said.

    Raises CheckpointError.
    """
    path = checkpoint.folder / TOKENIZER_FILE
    try:
        tokenizer = parse_tokenizer(path.read_bytes(), max_tokens)
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if tokenizer.get_vocab_size() > vocab_size:
        raise CheckpointError(f"{path} has {tokenizer.get_vocab_size()} tokens, config.json {vocab_size}")
    write_file(folder / TOKENIZER_FILE, tokenizer.to_str().encode())
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Int32Array]:
    """Token ids of each text, int32[length]."""
    return [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch(list(texts))]


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """A graph's bytes, the same for the same graph."""
    write_file(path, model.SerializeToString(deterministic=True))


def write_file(path: Path, content: bytes) -> None:
    """Write and flush to the disk, so that the rename never shows a folder whose files are not there yet.

    Raises BuildError.
    """
    with _writing(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _existing(out: Path, inputs: Mapping[str, Any]) -> Bundle | None:
    """The bundle at `out`, when it is whole and made from the same inputs."""
    try:
        bundle = read_bundle(out)
        check_files(out, bundle)
    except BundleError:
        return None
    return bundle if bundle.recipe.get("inputs") == inputs else None


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """What the system refuses to write becomes a BuildError."""
    try:
        yield
    except OSError as error:
        raise BuildError(f"{place} cannot be written: {error.strerror or error}; --out names another folder") from None


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of `out`, whose parents are made. Raises BuildError."""
    lock = FileLock(out.parent / f".{out.name}.lock")
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _replaced_folder(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends well, and is gone when it does not.

    What was at `out` stays there where the new one cannot take its place.

    The caller holds the lock, so a folder of this kind found here is what a killed builder left.
    """
    prefix = f".{out.name}."
    for abandoned in out.parent.glob(f"{prefix}*{BUILDING_SUFFIX}"):
        shutil.rmtree(abandoned, ignore_errors=True)
    with _writing(out):
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=BUILDING_SUFFIX, dir=out.parent))
    old = folder.with_name(f"{prefix}old{BUILDING_SUFFIX}")
    try:
        yield folder
        with _writing(out):
            folder.chmod(0o755)
            if out.exists():
                out.rename(old)
            try:
                folder.rename(out)
            except OSError:
                if old.exists():
                    old.rename(out)
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
