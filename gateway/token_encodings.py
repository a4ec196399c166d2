"""tiktoken's encodings from files that are here already; the network only where the operator allows it.

    decode = load_encoding("cl100k_base", Path("/etc/dejavec/cl100k_base.tiktoken")).decode

tiktoken has no data of its own: it fetches an encoding's file at first use and keeps it in a folder, under the SHA-1 of
its address. A gateway without a network would end there, or wait. Here the file is looked for first:

1. where `path` says: the file itself, or a folder that has it under its own name or under tiktoken's;
2. where tiktoken keeps files: `TIKTOKEN_CACHE_DIR`, else `DATA_GYM_CACHE_DIR`, else `data-gym-cache` among the
   temporary files.

It is used when its SHA-256 is the one that tiktoken itself expects. Where it comes from without a network:
docs/clients.md, "Token ids".
"""

import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CACHE_VARIABLES: Final = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
MAX_FILE_BYTES: Final = 16 * 1024 * 1024  # the largest has 3.6 MB


class TokenEncodingError(Exception):
    """An encoding cannot be loaded; the message has the remedy."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of an encoding: where it is published, and what must be in it."""

    address: str
    sha256: str

    @property
    def name(self) -> str:
        """Its name where it is published."""
        return self.address.rpartition("/")[2]

    @property
    def cache_name(self) -> str:
        """Its name in tiktoken's folder."""
        return hashlib.sha1(self.address.encode(), usedforsecurity=False).hexdigest()


_AT: Final = "https://openaipublic.blob.core.windows.net"
_R50K = Source(
    f"{_AT}/encodings/r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
)
_P50K = Source(
    f"{_AT}/encodings/p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
)
_CL100K = Source(
    f"{_AT}/encodings/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
)
_O200K = Source(
    f"{_AT}/encodings/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
)
SOURCES: Final[dict[str, Source]] = {  # as in tiktoken_ext.openai_public, which a test compares
    "cl100k_base": _CL100K,
    "o200k_base": _O200K,
    "o200k_harmony": _O200K,
    "p50k_base": _P50K,
    "p50k_edit": _P50K,
    "r50k_base": _R50K,
}


def load_encoding(
    name: str, path: Path | None = None, may_fetch: bool = False, environ: Mapping[str, str] = os.environ
) -> Any:
    """The tiktoken.Encoding of this name. Reads files, so it is for the start. Raises TokenEncodingError.

    `may_fetch`: tiktoken may get a file that is not here, which takes a network, and other encodings than SOURCES.
    """
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError:
        raise TokenEncodingError(
            'token_input_encoding needs the extra: .venv/bin/pip install -e ".[tiktoken]"'
        ) from None
    source = SOURCES.get(name)
    if source is None and not may_fetch:
        raise TokenEncodingError(f"token_input_encoding {name!r} is not one of {', '.join(sorted(SOURCES))}")
    content = None if source is None else _content_of(source, path, environ)
    try:
        if source is not None and content is not None:
            with _as_cache(source, content):
                return tiktoken.get_encoding(name)
        if may_fetch:
            return tiktoken.get_encoding(name)
    except Exception as error:  # tiktoken lets the transport's own exceptions through
        raise TokenEncodingError(f"token_input_encoding {name!r} cannot be loaded: {error}") from None
    assert source is not None
    raise TokenEncodingError(
        f"the file of token_input_encoding {name!r} is not here, and may not be fetched. Get {source.address} "
        "on a machine with a network, and set token_encoding_file to where you put it; "
        "or set token_encoding_fetch = true"
    )


def _content_of(source: Source, path: Path | None, environ: Mapping[str, str]) -> bytes | None:
    """The file's content, from the first place that has it; None where none has.

    Raises TokenEncodingError when the operator's file is missing or another; in tiktoken's folder it is passed over.
    """
    if path is not None:
        file = _named(path, source) if path.is_dir() else path
        content = None if file is None else _read(file)
        if content is None:
            raise TokenEncodingError(f"token_encoding_file: there is no {source.name} at {path}")
        if (found := hashlib.sha256(content).hexdigest()) != source.sha256:
            raise TokenEncodingError(
                f"token_encoding_file: {file} is not {source.name}: its SHA-256 is {found}, not {source.sha256}"
            )
        return content
    content = _read(_cache_folder(environ) / source.cache_name)
    return content if content is not None and hashlib.sha256(content).hexdigest() == source.sha256 else None


def _named(folder: Path, source: Source) -> Path | None:
    files = (folder / source.name, folder / source.cache_name)
    return next((file for file in files if file.is_file()), None)


def _cache_folder(environ: Mapping[str, str]) -> Path:
    chosen = next((environ[name] for name in CACHE_VARIABLES if name in environ), None)
    return Path(tempfile.gettempdir(), "data-gym-cache") if chosen is None else Path(chosen)


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None


@contextmanager
def _as_cache(source: Source, content: bytes) -> Iterator[None]:
    """A folder of tiktoken's form with just this content, so that what was checked is what it reads."""
    before = os.environ.get(CACHE_VARIABLES[0])
    with tempfile.TemporaryDirectory(prefix="dejavec-encoding-") as folder:
        Path(folder, source.cache_name).write_bytes(content)
        os.environ[CACHE_VARIABLES[0]] = folder
        try:
            yield
        finally:
            del os.environ[CACHE_VARIABLES[0]]
            if before is not None:
                os.environ[CACHE_VARIABLES[0]] = before
