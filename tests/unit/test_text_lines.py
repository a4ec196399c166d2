"""Reading lines, objects and columns."""

import io
import os
from pathlib import Path

import pytest

from common.text_lines import Line, LineError, read_columns, read_lines, read_objects


def test_lines_end_with_a_newline_alone() -> None:
    """Reading goes on from any line's end."""
    file = io.BytesIO("a\u2028b\r\n\nc".encode())
    assert next(read_lines(file)) == Line(1, "a\u2028b\r\n".encode())
    assert list(read_lines(file, number=1)) == [Line(2, b"\n"), Line(3, b"c")]


def test_a_pipe_is_read_from_where_it_is() -> None:
    """It cannot seek."""
    reader, writer = os.pipe()
    os.write(writer, b"a\nb")
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert [line.content for line in read_lines(file)] == [b"a\n", b"b"]


def test_lines_above_the_limit_are_passed_over() -> None:
    """They are counted, and nothing of them is kept; the newline does not count."""
    lines = list(read_lines(io.BytesIO(b"toolong\nyes\ntoolong"), max_line_bytes=3))
    assert lines == [Line(1, None), Line(2, b"yes\n"), Line(3, None)]


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
