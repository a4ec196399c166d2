"""Reading lines, texts and columns; what ingestion and the load test make of them is tested with them."""

import io
import os
from pathlib import Path

import pytest

from common.text_lines import Line, LineError, TextLine, read_columns, read_lines, read_objects, read_texts


def test_lines_end_with_a_newline_alone_and_know_where_they_are() -> None:
    """Reading goes on from any line's end."""
    content = "a\u2028b\r\n\nc".encode()
    lines = list(read_lines(io.BytesIO(content)))
    assert [line.content for line in lines] == ["a\u2028b\r\n".encode(), b"\n", b"c"]
    first = lines[0]
    assert list(read_lines(io.BytesIO(content), offset=first.end, number=first.number)) == lines[1:]


def test_a_pipe_is_read_from_where_it_is() -> None:
    """It cannot seek."""
    reader, writer = os.pipe()
    os.write(writer, b"a\nb")
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert [line.content for line in read_lines(file)] == [b"a\n", b"b"]


@pytest.mark.parametrize("size", [None, 13])
def test_lines_above_the_limit_are_passed_over(size: int | None) -> None:
    """They are counted, and nothing of them is kept."""
    lines = list(read_lines(io.BytesIO(b"toolong\nok\ntoolong"), max_line_bytes=3, size=size))
    assert lines == [Line(1, 8, None), Line(2, 11, b"ok\n"), Line(3, size or 18, None if size is None else b"to")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.NDJSON"])
def test_json_lines_by_their_suffix(tmp_path: Path, name: str) -> None:
    """Blank lines have neither text nor fault; broken ones have a fault."""
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"body": " one "}\n\n[1]\n{"body": 2}\n')
    blank, *broken = list(read_texts(path, "body"))[1:]
    assert next(read_texts(path, "body")) == TextLine(1, " one ")
    assert blank == TextLine(2, "")
    assert [line.fault for line in broken] == ["not a JSON object", "no text: the field 'body' is not a string"]


def test_plain_lines_are_stripped(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are a fault of their line alone."""
    path = tmp_path / "a.txt"
    path.write_bytes(b" one \r\n\xff\ntwo")
    first, broken, last = read_texts(path)
    assert (first.text, last.text) == ("one", "two")
    assert (broken.text, broken.fault[:9]) == ("", "not UTF-8")


def test_columns_by_name(tmp_path: Path) -> None:
    """In the order asked for; blank lines are left out, short rows and missing columns are errors with their line."""
    path = tmp_path / "a.tsv"
    path.write_text("x\ty\tz\r\n1\t2\t3\n\n4\t\t6\n7\n")
    rows = read_columns(path, ["z", "x"])
    assert [next(rows), next(rows)] == [(2, ["3", "1"]), (4, ["6", "4"])]
    with pytest.raises(LineError, match="line 5: 1 columns, 3 are needed"):
        next(rows)
    with pytest.raises(LineError, match="line 1: the header names no column a; it has x, y, z"):
        next(read_columns(path, ["a", "x"]))


def test_objects_with_their_lines(tmp_path: Path) -> None:
    """A line that is no JSON object ends the reading."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{\n')
    objects = read_objects(path)
    assert next(objects) == (1, {"a": 1})
    with pytest.raises(LineError, match="line 3: not JSON"):
        next(objects)
