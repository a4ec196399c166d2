"""Reading calibration files: what is skipped and counted, and that the sample is bounded and repeatable."""

import gzip
import hashlib
from pathlib import Path

import pytest

from engine.build.calibration import DEFAULT_FILE, SAMPLE_SIZE, read_texts
from engine.build.errors import CalibrationError


def test_the_built_in_file_is_diverse_and_whole() -> None:
    """Some hundred texts from one word to paragraphs, none of them broken."""
    texts = read_texts(None)
    lengths = [len(text) for text in texts.calibrate + texts.hold_out]
    assert len(lengths) > 200
    assert not texts.lines.skipped
    assert min(lengths) < 5
    assert max(lengths) > 600
    assert DEFAULT_FILE.is_file()


def test_empty_and_broken_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    """Blank lines and bytes that are not UTF-8."""
    path = tmp_path / "texts.txt"
    path.write_bytes(b"one\n\n  \ntwo \xff broken\nthree\r\n")
    texts = read_texts(path)
    assert texts.calibrate == ("one", "three")
    assert texts.lines.to_json() == {"read": 5, "used": 2, "skipped": {"blank": 2, "not UTF-8": 1}}


def test_json_lines_use_text_and_survive_everything_else(tmp_path: Path) -> None:
    """Broken JSON, no text, a text that is no string, an object that is a list."""
    path = tmp_path / "texts.jsonl"
    path.write_text(
        '{"text": "one", "id": 1}\n{"text": \n{"id": 2}\n{"text": 3}\n[1]\n{"text": " "}\n{"text": "two"}\n'
    )
    texts = read_texts(path)
    assert texts.calibrate == ("one", "two")
    assert texts.lines.skipped.total() == 5


def test_a_large_file_gives_a_bounded_sample_and_the_same_each_time(tmp_path: Path) -> None:
    """Texts from all of the file, not only from its start."""
    path = tmp_path / "large.txt"
    path.write_text("\n".join(f"text {number}" for number in range(10_000)))
    texts = read_texts(path)
    sample = texts.calibrate + texts.hold_out
    assert len(sample) == SAMPLE_SIZE
    assert len(set(sample)) == SAMPLE_SIZE
    assert max(int(text.split()[1]) for text in sample) > 9_000
    assert read_texts(path) == texts


def test_texts_that_measure_do_not_calibrate(tmp_path: Path) -> None:
    """With enough texts the hold-out is apart; with few the same ones do both."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"text {number}" for number in range(40)))
    texts = read_texts(path)
    assert not set(texts.calibrate) & set(texts.hold_out)
    assert (len(texts.calibrate), len(texts.hold_out)) == (30, 10)
    path.write_text("only one")
    assert read_texts(path).calibrate == read_texts(path).hold_out == ("only one",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.txt.gz", gzip.compress(b"one\ntwo\n", mtime=0)),
        ("texts.txt", "\ufeffone\r\ntwo".encode("utf-16-le")),
        ("texts.csv", b"id,text\n1,one\n2,two\n"),
    ],
)
def test_other_formats(tmp_path: Path, name: str, content: bytes) -> None:
    """As for every command; the file's own hash is in the recipe."""
    path = tmp_path / name
    path.write_bytes(content)
    texts = read_texts(path)
    assert texts.calibrate == ("one", "two")
    assert texts.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\n"])
def test_a_file_without_texts_is_an_error(tmp_path: Path, content: bytes) -> None:
    """There is nothing to calibrate on."""
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="holds no text"):
        read_texts(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """The operating system's words are kept."""
    with pytest.raises(CalibrationError, match="No such file"):
        read_texts(tmp_path / "nothing.txt")
