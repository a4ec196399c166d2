"""The bundle's description: its fingerprint, its files, its tokenizer."""

import json
from pathlib import Path

import pytest

from engine.bundle import FORMAT_VERSION, Bundle, BundleError, check_files, parse_tokenizer, read_bundle, sha256_of
from tests.tiny_bert import write_tokenizer

FIELDS: dict[str, object] = {
    "model": "tiny",
    "source": "someone/tiny",
    "source_sha256": "1" * 64,
    "tokenizer_sha256": "2" * 64,
    "graph_sha256": "3" * 64,
    "static_embedding_sha256": "5" * 64,
    "check_sha256": "6" * 64,
    "precision": "int8",
    "dimensions": 32,
    "max_tokens": 24,
    "vocab_size": 100,
    "pooling": "mean",
    "normalize": True,
    "prompts": {},
    "default_prompt_name": None,
    "recipe": {},
    "provenance": {},
    "quality": {},
}


def bundle(**changes: object) -> Bundle:
    """A description with some fields changed."""
    return Bundle.model_validate(FIELDS | changes)


@pytest.mark.parametrize("change", [{"graph_sha256": "4" * 64}, {"tokenizer_sha256": "4" * 64}, {"max_tokens": 23}])
def test_the_fingerprint_changes_with_whatever_changes_a_vector(change: dict[str, object]) -> None:
    """Graph, tokenizer, length; and the kernel class it runs with."""
    assert bundle().fingerprint("int8-exact") != bundle(**change).fingerprint("int8-exact")
    assert bundle().fingerprint("int8-exact") != bundle().fingerprint("fp32")


def test_the_fingerprint_does_not_change_with_names_or_prompts() -> None:
    """They change token ids or nothing."""
    other = bundle(model="renamed", prompts={"query": "q: "}, quality={"cosine_mean": 1.0})
    assert bundle().fingerprint("int8-exact") == other.fingerprint("int8-exact")


def test_a_description_is_read_back(tmp_path: Path) -> None:
    """JSON in, the same out."""
    (tmp_path / "bundle.json").write_text(bundle().model_dump_json())
    assert read_bundle(tmp_path) == bundle()


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps(FIELDS | {"format_version": 99}), '{"model": "x"'])
def test_a_description_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    """Whatever is wrong, the remedy is to build it again."""
    (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match="build it again"):
        read_bundle(tmp_path)


def test_a_bundle_of_an_older_format_is_refused_by_its_number(tmp_path: Path) -> None:
    """Not by the fields that have other names since."""
    (tmp_path / "bundle.json").write_text(json.dumps({"format_version": 2, "probe_sha256": "5" * 64}))
    with pytest.raises(BundleError, match=r"has format 2, this version reads \d+: build it again"):
        read_bundle(tmp_path)


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    """Their hashes are part of the fingerprint, so they must be what they say."""
    files = {
        "graph": "model.onnx",
        "tokenizer": "tokenizer.json",
        "static_embedding": "static_embedding.npz",
        "check": "check_vectors.npz",
    }
    for name in files.values():
        (tmp_path / name).write_bytes(name.encode())
    hashes = {f"{kind}_sha256": sha256_of(tmp_path / name) for kind, name in files.items()}
    check_files(tmp_path, bundle(**hashes))
    for kind in ("static_embedding", "check"):
        with pytest.raises(BundleError, match=rf"{files[kind]} is not the file"):
            check_files(tmp_path, bundle(**hashes | {f"{kind}_sha256": "0" * 64}))
    (tmp_path / "model.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match=r"model\.onnx is not the file"):
        check_files(tmp_path, bundle(**hashes))
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        check_files(tmp_path, bundle(**hashes))


def test_a_tokenizer_never_pads_and_cuts_where_it_is_told(tmp_path: Path) -> None:
    """Whatever its file says of padding and truncation."""
    write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = parse_tokenizer((tmp_path / "tokenizer.json").read_bytes(), 24)
    assert [len(encoding.ids) for encoding in tokenizer.encode_batch(["w1", "w1 w2", "w1 " * 50])] == [3, 4, 24]


def test_what_is_not_a_tokenizer_is_refused() -> None:
    """The parser's own words are kept."""
    with pytest.raises(BundleError, match=r"not a tokenizer\.json"):
        parse_tokenizer(b"{}", 24)


@pytest.mark.parametrize("field", ["max_tokens", "dimensions", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, True, 24.0, "24", None, 2**31, 10**30])
def test_an_impossible_size_is_refused_by_its_field(tmp_path: Path, field: str, value: object) -> None:
    """One line that names the field; nothing is taken for a number that only could become one."""
    (tmp_path / "bundle.json").write_text(json.dumps(FIELDS | {"format_version": FORMAT_VERSION, field: value}))
    with pytest.raises(BundleError, match=f"build it again: {field}: ") as caught:
        read_bundle(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("max_tokens", [-1, 0, 2, 10**9])
def test_a_length_without_room_for_a_token_is_refused(tmp_path: Path, max_tokens: int) -> None:
    """Two special tokens and nothing else, or more than any text has: whoever reads the tokenizer is told."""
    write_tokenizer(tmp_path / "tokenizer.json")
    content = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(BundleError, match=rf"max_tokens: {max_tokens} is not between 3"):
        parse_tokenizer(content, max_tokens)
    assert len(parse_tokenizer(content, 3).encode("w1 w2 w1").ids) == 3


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """Not with a trace."""
    (tmp_path / "bundle.json").mkdir()
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_bundle(tmp_path)
