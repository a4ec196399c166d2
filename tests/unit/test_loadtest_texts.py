"""Reading texts from lines, JSONL and TSV."""

from pathlib import Path

import orjson
import pytest

from loadtest.texts import TextsError, read_lines, read_texts


def test_own_texts() -> None:
    """The package's own file has some 200 distinct texts, short and long."""
    texts = read_texts(None)
    assert len(texts) == len(set(texts)) >= 180
    assert min(map(len, texts)) < 40
    assert max(map(len, texts)) > 250


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\n  two  \r\nthree"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": " "}\n{"text": "two"}\n{"id": 1, "text": "three"}\n'),
        ("a.tsv", "id\ttext\r\n1\tone\r\n2\ttwo\r\n3\tthree\r\n"),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str) -> None:
    """Each format gives the same texts, blank ones left out."""
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_texts(path) == ["one", "two", "three"]
    assert read_texts(path, limit=2) == ["one", "two"]


def test_lines_at_fault_are_skipped_and_counted(tmp_path: Path) -> None:
    """The load is made of the others; the file of bad lines has their numbers and reasons, and no text."""
    path, bad = tmp_path / "a.jsonl", tmp_path / "bad.jsonl"
    path.write_text('{"text": "one"}\n{"body": "secret"}\nsecret\n\n{"text": "two"}\n')
    lines = read_lines(path, bad_lines_file=bad)
    assert lines.texts == ["one", "two"]
    assert lines.tally.to_json() == {"read": 5, "used": 2, "skipped": {"no text": 1, "not JSON": 1, "blank": 1}}
    assert [orjson.loads(line)["line"] for line in bad.read_bytes().splitlines()] == [2, 3]
    assert b"secret" not in bad.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "holds no usable text: 2 lines read, 0 used, 2 skipped: 2 blank"),
        ("a.jsonl", '{"body": "x"}\n', "line 1: no text: the field 'text' is missing"),
        ("a.jsonl", "not json\n", "line 1: not JSON"),
        ("a.jsonl", '{"text": 3}\n', "line 1: no text: the field 'text' is not a string"),
        ("a.tsv", "id\tquery\n1\tx\n", "it has id, query"),
        ("a.tsv", "id\ttext\n1\n", "line 2: 1 columns, 2 are needed"),
        ("a.txt", b"\xff\xff\x00", "not UTF-8|iconv"),
    ],
)
def test_a_file_without_texts_says_why(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """The file, the first line of each reason, and how many there are."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TextsError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
