"""Files on local paths and fsspec URLs: which there are, what tells whether one has changed, and whole writes.

    files = find("s3://bucket/texts/", None)
    with open_file(files[0].url) as file: ...
    Folder("s3://bucket/vectors").write("part-000000.parquet", content)

A local file is written beside its place and renamed. Object stores make a written object visible as a whole or not at
all; of other file systems that is not known, which is why a part counts only once its record is there.
"""

import fcntl
import importlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from common.credentials import shown_url
from common.texts.form import BY_SUFFIX, Format
from common.texts.stream import SourceError

FORMATS: Final = (Format.JSONL, Format.PARQUET)
MAX_FILES: Final = 100_000
OWN_FOLDER: Final = "_dejavec"  # readers of data sets pass over names that start with _ or .
LOCAL: Final = ("file", "local")
STAMPS: Final = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read. `name`: its path below the source; `stamp`: another one after a change, empty where unknown."""

    name: str
    url: str
    size: int
    stamp: str
    format: Format


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a path or URL, and the path on it. Raises SourceError where it cannot be had."""
    fsspec = importlib.import_module("fsspec")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # s3fs, gcsfs, ... are packages of their own
        raise SourceError(f"{shown_url(url)}: {error}") from None
    return fs, path


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return any(protocol in LOCAL for protocol in protocols)


@contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """A file for reading, buffered. Raises OSError."""
    fs, path = filesystem(url)
    with _translated(url), fs.open(path, "rb") as file:
        yield io.BufferedReader(file, 1 << 20)


def find(source: str, format: Format | None) -> tuple[list[SourceFile], list[str]]:
    """The files of a file, folder or pattern in the order of their names, and the names of those left out.

    Of a folder or pattern, files whose name, or a folder's on the way, starts with _ or . are not looked at; those of
    other formats are left out, unless `format` says what all of them are. Raises SourceError, OSError.
    """
    fs, path = filesystem(source)
    with _translated(source):
        if any(sign in path for sign in "*?["):
            root = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rpartition("/")[0]
            entries = fs.glob(path, detail=True)
        else:
            if not fs.exists(path):
                raise FileNotFoundError
            root = path if fs.isdir(path) else path.rpartition("/")[0]
            entries = fs.find(path, detail=True)
    files, left_out = [], []
    for found, info in sorted(entries.items()):
        if info.get("type") != "file":
            continue
        name = found.removeprefix(root).lstrip("/")
        if any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts) and found != path:
            continue
        kind = format or BY_SUFFIX.get(PurePosixPath(name.lower()).suffix, None)
        if kind not in FORMATS and found == path:
            kind = Format.JSONL  # a single file without a known suffix, as in the ingestion of one file
        if kind not in FORMATS:
            left_out.append(name)
            continue
        files.append(SourceFile(name, fs.unstrip_protocol(found), info["size"] or 0, _stamp(info), kind))
    if not files:
        raise SourceError(f"{shown_url(source)}: no JSON Lines (.jsonl, .ndjson) and no Parquet (.parquet) there")
    if len(files) > MAX_FILES:
        raise SourceError(f"{shown_url(source)}: more than {MAX_FILES:,} files; ingest it in several folders")
    return files, left_out


class Folder:
    """The output: a local folder, or a place on a file system of fsspec's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = filesystem(url)
        self._local = is_local(self._fs)

    def lies_in(self, source: str) -> bool:
        """Whether it is the source, or below it: it would be read as input."""
        fs, path = filesystem(source)
        return type(fs) is type(self._fs) and (self._path + "/").startswith(path.rstrip("/") + "/")

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none. Raises OSError."""
        try:
            content: bytes = self._fs.cat_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        return content

    def read_all(self, names: list[str]) -> dict[str, bytes]:
        """The content of many files, at the same time where the file system can. Raises OSError."""
        found: dict[str, bytes] = {}
        for start in range(0, len(names), 1000):
            paths = {f"{self._path}/{name}": name for name in names[start : start + 1000]}
            contents = self._fs.cat(list(paths), on_error="omit")
            found |= {name: contents[path] for path, name in paths.items() if path in contents}
        return found

    def sizes(self) -> dict[str, int]:
        """The size of each file by its name below the folder. Raises OSError."""
        self._fs.invalidate_cache()
        entries = self._fs.find(self._path, detail=True)
        return {
            path.removeprefix(self._path).lstrip("/"): info["size"] or 0
            for path, info in entries.items()
            if info.get("type") == "file"
        }

    def write(self, name: str, content: bytes) -> None:
        """A file, whole. Raises OSError."""
        path = f"{self._path}/{name}"
        if not self._local:
            self._fs.pipe_file(path, content)
            return
        draft = Path(self._path, OWN_FOLDER, "drafts", uuid.uuid4().hex)  # a worker's own, should two have one part
        draft.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def clear(self, names: list[str]) -> None:
        """Remove files that are there. Raises OSError."""
        for name in names:
            self._fs.rm_file(f"{self._path}/{name}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a local folder for one ingestion; of others it is not known who else writes there.

        Raises BlockingIOError where another one holds it.
        """
        if not self._local:
            yield
            return
        own = Path(self._path, OWN_FOLDER)
        own.mkdir(parents=True, exist_ok=True)
        with (own / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in (own / "drafts").glob("*"):  # of a run that was killed
                with suppress(FileNotFoundError):
                    leftover.unlink()
            yield


def _stamp(info: dict[str, Any]) -> str:
    return next((str(info[name]) for name in STAMPS if info.get(name)), "")


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """What fsspec's file systems raise, with the file's name. Raises SourceError."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{shown_url(url)}: no such file or folder") from None
    except PermissionError as error:
        raise SourceError(f"{shown_url(url)}: {error.strerror or 'not allowed'}") from None
