"""tiktoken's encodings without a network: from the real file where LlamaIndex brings it."""

import hashlib
import importlib.util
import inspect
import os
import socket
import sys
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext import openai_public

from gateway.token_encodings import SOURCES, TokenEncodingError, load_encoding

CL100K = SOURCES["cl100k_base"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection can be made, and neither an encoding nor a file is left from before."""

    def refuse(*args: object) -> None:
        raise OSError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def real_file() -> Path:
    """cl100k_base's file, which llama-index-core has in its package under tiktoken's name."""
    found = importlib.util.find_spec("llama_index.core") if importlib.util.find_spec("llama_index") else None
    if found is None or found.origin is None:
        pytest.skip("llama-index-core, which brings the encoding's file, is not installed")
    file = Path(found.origin).parent / "_static" / "tiktoken_cache" / CL100K.cache_name
    if not file.is_file():
        pytest.skip("this llama-index-core does not bring the encoding's file")
    return file


def test_names_addresses_and_hashes_are_tiktoken_s() -> None:
    """Those of the tiktoken that is installed; all its encodings of one file are known."""
    code = {name: inspect.getsource(make) for name, make in openai_public.ENCODING_CONSTRUCTORS.items()}
    one_file = {name for name, text in code.items() if "load_tiktoken_bpe(" in text or "base()" in text}
    assert set(SOURCES) == one_file
    everything = inspect.getsource(openai_public)
    for source in SOURCES.values():
        assert f'"{source.address}",\n        expected_hash="{source.sha256}"' in everything
    assert CL100K.cache_name == "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


@pytest.mark.parametrize("form", ["file", "own name", "tiktoken's name", "tiktoken's folder"])
def test_the_real_encoding_is_loaded_offline(
    form: str, real_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file, a folder with it, or where tiktoken would have kept it."""
    path: Path | None = real_file
    if form == "own name":
        path = tmp_path
        (tmp_path / CL100K.name).write_bytes(real_file.read_bytes())
    elif form == "tiktoken's name":
        path = real_file.parent
    elif form == "tiktoken's folder":
        path = None
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_file.parent))
    before = dict(os.environ)
    encoding = load_encoding("cl100k_base", path)
    assert encoding.decode([15339, 1917]) == "hello world"
    assert encoding.decode(encoding.encode("Grüße, 電車 🚆")) == "Grüße, 電車 🚆"
    assert dict(os.environ) == before


def test_a_missing_file_is_named_with_where_to_get_it() -> None:
    """And nothing was fetched."""
    with pytest.raises(TokenEncodingError) as refused:
        load_encoding("cl100k_base")
    for part in (CL100K.address, "token_encoding_file", "token_encoding_fetch", "cl100k_base"):
        assert part in str(refused.value)


def test_another_file_is_refused(tmp_path: Path) -> None:
    """With its hash and the expected one; the operator's file is left alone."""
    file = tmp_path / "mine.tiktoken"
    file.write_bytes(b"aGVsbG8= 0\n")
    with pytest.raises(TokenEncodingError, match=f"is not cl100k_base.tiktoken: .*not {CL100K.sha256}") as refused:
        load_encoding("cl100k_base", file)
    assert hashlib.sha256(b"aGVsbG8= 0\n").hexdigest() in str(refused.value)
    assert file.read_bytes() == b"aGVsbG8= 0\n"
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(TokenEncodingError, match="there is no cl100k_base"):
            load_encoding("cl100k_base", path)


def test_a_damaged_file_in_tiktoken_s_folder_is_passed_over(tmp_path: Path) -> None:
    """It counts as missing, and stays."""
    (tmp_path / "cache").mkdir()
    damaged = tmp_path / "cache" / CL100K.cache_name
    damaged.write_bytes(b"x")
    with pytest.raises(TokenEncodingError, match="is not here"):
        load_encoding("cl100k_base")
    assert damaged.exists()


def test_fetching_is_the_operator_s_choice() -> None:
    """Then tiktoken tries, and its failure is told in one message."""
    with pytest.raises(TokenEncodingError, match="'cl100k_base' cannot be loaded"):
        load_encoding("cl100k_base", may_fetch=True)


def test_other_names_are_refused_with_those_there_are() -> None:
    """Encodings that others register need the network's permission, since what they do is not known."""
    with pytest.raises(TokenEncodingError, match="'nonsense' is not one of cl100k_base, "):
        load_encoding("nonsense")
    with pytest.raises(TokenEncodingError, match="'nonsense' cannot be loaded"):
        load_encoding("nonsense", may_fetch=True)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is told to decode and cannot does not start silently."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(TokenEncodingError, match=r'.venv/bin/pip install -e "\.\[tiktoken\]"'):
        load_encoding("cl100k_base")
