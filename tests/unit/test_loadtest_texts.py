"""Reading texts from lines, JSONL and TSV."""

from pathlib import Path

import pytest

from loadtest.texts import TextsError, read_texts


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "holds no texts"),
        ("a.jsonl", '{"text": "one"}\n{"body": "x"}\n', "line 2: no text: the field 'text' is missing"),
        ("a.jsonl", "not json\n", "line 1"),
        ("a.jsonl", '{"text": 3}\n', "line 1: no text: the field 'text' is not a string"),
        ("a.tsv", "id\tquery\n1\tx\n", "it has id, query"),
        ("a.tsv", "id\ttext\n1\n", "line 2"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """A file that cannot be read says where and why."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TextsError, match=message) as caught:
        read_texts(path)
    assert str(path) in str(caught.value)
