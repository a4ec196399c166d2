"""A model on the hub: its files in the hub's own cache, those asked for and no others, each as the hub has it.

    model = open_hub_model("owner/model", "main")
    model.fetch(["*.json"])           # into model.folder, the snapshot of one commit
    model.fetch(["model.safetensors"])

huggingface_hub shows progress, retries within a download and reads HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE.
What it does not do is done here: it begins a file anew after an interruption, so a large file is kept as far as it
came and the next run goes on from there; and it compares sizes alone, so every file's hash is compared with the hub's.
Without a network the cache is used as it is.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not listed there

from engine.build.errors import CheckpointError
from engine.bundle import sha256_of

CONFIG_FILE = "config.json"  # every model has it; by it a revision's commit is found
HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
MAX_LISTED_FILES = 10_000
ASK_TIMEOUT_S = 10.0
PAUSE_S = 1.0  # before a file that was cut short is gone on with
_NO_NETWORK = "and is not in the hub's cache; without a network, name a folder instead"
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as the hub lists it. digest: SHA-256 of a large file, else Git's SHA-1 of its content."""

    path: str
    size: int
    digest: str

    @property
    def is_large(self) -> bool:
        """Whether the hub keeps it beside Git, as it does everything above some megabytes."""
        return _SHA256.fullmatch(self.digest) is not None


@dataclass(frozen=True, slots=True)
class HubModel:
    """One commit of a model. files: what the hub lists; None where it cannot be reached, for the reason `away`."""

    model_id: str
    folder: Path
    files: Sequence[HubFile] | None
    away: str = ""

    @property
    def commit(self) -> str:
        """The hub names a snapshot's folder after it."""
        return self.folder.name

    def fetch(self, patterns: Iterable[str]) -> None:
        """Have the files whose paths match one of `patterns` in `folder`. Raises CheckpointError."""
        patterns = list(patterns)
        if self.files is None:
            for path in sorted(self.folder.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and _matches(name, patterns):
                    _check(path, path.resolve().name)
            return
        for file in self.files:
            if _matches(file.path, patterns):
                self._fetch(file)

    def require(self, name: str) -> Path:
        """A file that was fetched, by its name. Raises CheckpointError where the hub or its cache has none."""
        if not (path := self.folder / name).is_file():
            why = f"is not in the hub's cache, and the hub cannot be reached ({self.away})" if self.away else "is not"
            raise CheckpointError(f"{name} {why} among the files of {self.model_id}@{self.commit[:12]}")
        return path

    def size_of(self, patterns: Iterable[str]) -> int:
        """Bytes of the files whose paths match, as the hub lists them; 0 where it cannot be reached."""
        return sum(file.size for file in self.files or () if _matches(file.path, list(patterns)))

    def _fetch(self, file: HubFile) -> None:
        path = self.folder / file.path
        if not path.is_file():
            if file.is_large:
                self._fetch_large(file)
            _download(self.model_id, file.path, self.commit)  # of a large file that is there it makes the link
        _check(path, file.digest)

    def _fetch_large(self, file: HubFile) -> None:
        """Put the file where the hub's cache would have it, going on from what an earlier run left."""
        repository = self.folder.parents[1]
        blob = repository / "blobs" / file.digest
        part = blob.with_name(f"{blob.name}.incomplete")
        lock = repository.parent / ".locks" / repository.name / f"{blob.name}.lock"  # the hub's own lock
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if blob.is_file():
                return
            self._go_on(file, part)
            if (found := sha256_of(part)) != file.digest:
                part.unlink()
                raise CheckpointError(
                    f"{file.path} of {self.model_id} came with SHA-256 {found[:16]}…, but the hub lists"
                    f" {file.digest[:16]}…: it was damaged on its way and is thrown away; run the command again"
                )
            part.rename(blob)

    def _go_on(self, file: HubFile, part: Path) -> None:
        done = part.stat().st_size if part.is_file() else 0
        if done > file.size:
            part.unlink()
            done = 0
        free = shutil.disk_usage(part.parent).free
        if free < file.size - done:
            raise CheckpointError(
                f"{file.path} needs {(file.size - done) / 1e9:.1f} GB in {part.parent}, where {free / 1e9:.1f} GB are"
                " free; HF_HOME names another folder"
            )
        url = hf_hub_url(self.model_id, file.path, revision=self.commit)
        while done < file.size:
            try:
                with part.open("ab") as content:
                    http_get(
                        url,
                        content,
                        resume_size=done,
                        headers=build_hf_headers(library_name="dejavec"),
                        expected_size=file.size,
                        displayed_filename=file.path,
                    )
            except Exception as error:
                # huggingface_hub goes on by itself after some kinds of cut and not after others, and raises the errors
                # of its HTTP library, which changed between its releases.
                if part.stat().st_size <= done:
                    raise CheckpointError(
                        f"{file.path} of {self.model_id} could not be fetched whole: {_in_one_line(error)}; what has"
                        " arrived is kept, run the command again to go on"
                    ) from None
                time.sleep(PAUSE_S)
            done = part.stat().st_size


def parse_hub_id(source: str) -> tuple[str, str | None] | None:
    """A hub id's model and revision; None for what is none."""
    match = HUB_ID.fullmatch(source)
    if match is None or source.startswith((".", "/", "~")):
        return None
    return match["id"], match["revision"]


def open_hub_model(model_id: str, revision: str | None) -> HubModel:
    """Find the commit and list its files; from the hub's cache where the hub cannot be reached.

    Raises CheckpointError when the hub refuses, or when neither has the model.
    """
    folder = _download(model_id, CONFIG_FILE, revision).parent
    try:
        # Asked once: listing would try for half a minute before it says that there is no network.
        get_hf_file_metadata(hf_hub_url(model_id, CONFIG_FILE, revision=folder.name), timeout=ASK_TIMEOUT_S)
        return HubModel(model_id, folder, _list(model_id, folder.name))
    except CheckpointError:
        raise
    except Exception as error:  # as above; what is in the cache may be all that is needed
        return HubModel(model_id, folder, None, _in_one_line(error))


def _list(model_id: str, commit: str) -> list[HubFile]:
    files = []
    for entry in HfApi().list_repo_tree(model_id, recursive=True, revision=commit):
        if isinstance(entry, RepoFile):
            files.append(HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id))
        if len(files) > MAX_LISTED_FILES:
            raise CheckpointError(f"{model_id} has more than {MAX_LISTED_FILES} files")
    return files


def _download(model_id: str, name: str, revision: str | None) -> Path:
    """A small file, or the link to a large one, by huggingface_hub. Raises CheckpointError."""
    label = model_id if revision is None else f"{model_id}@{revision}"
    try:
        return Path(hf_hub_download(model_id, name, revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(f"{label} could not be fetched, {_NO_NETWORK}: {_in_one_line(error)}") from None
    except EntryNotFoundError:
        raise CheckpointError(f"{label} has no {name}, which a model needs") from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(f"the hub refused {label}: {_in_one_line(error)}") from None
    except Exception as error:  # as above
        raise CheckpointError(f"{label} could not be fetched, {_NO_NETWORK}: {_in_one_line(error)}") from None


def _check(path: Path, digest: str) -> None:
    """Raises CheckpointError when the file's content is not what `digest` names; other names say nothing."""
    if _SHA256.fullmatch(digest):
        found = sha256_of(path)
    elif _GIT_SHA1.fullmatch(digest):
        content = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    else:
        return
    if found != digest:
        raise CheckpointError(
            f"{path} is not the file that the hub has (its hash is {found[:16]}…, not {digest[:16]}…): remove"
            f" {path.resolve()} and run the command again"
        )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
