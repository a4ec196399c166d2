"""The reader of text files: what it holds in memory, pipes and standard input, and going on from a position."""

import codecs
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.texts import BadLine, Format, InputChanged, Position, Record, TextFile, TextForm, form_of, read_all
from deploy.install import ROOT
from tests.unit.test_texts import PLAIN, TEXTS, texts_of, written


def test_nothing_is_read_into_memory_whole(tmp_path: Path) -> None:
    """A line of 256 MB out of a gzip bomb of 1 MB, and a million blank lines: no more than 32 MB of memory."""
    bomb = tmp_path / "bomb.gz"
    with gzip.open(bomb, "wb", 1) as file:
        for _ in range(256):
            file.write(b"x" * (1 << 20))
        file.write(b"\nafter\n" + b"\n" * (1 << 20))
    code = (
        "import resource, sys; from pathlib import Path; from common.texts import TextFile, form_of\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "path, before = Path(sys.argv[1]), used()\n"
        "with TextFile(path, form_of(path)) as file:\n"
        "    rows = file.rows(); print(next(rows).fault, next(rows).text, sum(1 for _ in rows))\n"
        "print(used() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, bomb], cwd=ROOT, capture_output=True, text=True, check=True)
    found, grown_mb = done.stdout.splitlines()
    assert found == f"too long after {1 << 20}"
    assert int(grown_mb) < 32


def test_all_texts_are_bounded(tmp_path: Path) -> None:
    """By number and by size; what is beyond is not read."""
    paths = [written(tmp_path, "a.txt", PLAIN), written(tmp_path, "b.txt", PLAIN)]
    for bounds, expected in (({"limit": 5}, 5), ({"limit": 99, "max_characters": 10}, 2), ({"limit": 99}, 8)):
        taken = read_all(paths, form_of, **bounds)
        assert (len(taken.texts), taken.was_cut) == (expected, expected < 8)
        assert taken.tally.used == expected


ANY_LINE = st.one_of(
    st.builds(lambda text: orjson.dumps({"text": text}), st.text(alphabet=st.characters(codec="utf-8"))),
    st.text('ab"",\té\r').map(str.encode),
    st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")),
)


@given(
    lines=st.lists(ANY_LINE, max_size=30),
    form=st.sampled_from([Format.JSONL, Format.TEXT, Format.CSV, Format.TSV]),
    packed=st.booleans(),
    place=st.integers(0, 30),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reading_goes_on_from_any_row(tmp_path: Path, lines: list[bytes], form: Format, packed: bool, place: int):
    """Whatever the file holds, each line is a row or part of one, and a later reader gives the rest of the rows."""
    content = b"\n".join([b"id,text\tid\ttext" if form is Format.TSV else b"id,text", *lines]) + b"\n"
    path = written(tmp_path, "a", gzip.compress(content) if packed else content)
    text_form = TextForm(form, id_field="id", max_line_bytes=50)
    with TextFile(path, text_form) as file:
        rows, positions = [], [file.position]
        for row in file.rows():
            rows.append(row)
            positions.append(file.position)
        assert file.at_end()
    if form in (Format.JSONL, Format.TEXT):
        assert [row.line for row in rows] == list(range(1, len(lines) + 2))
    place = min(place, len(rows))
    with TextFile(path, text_form) as file:
        file.skip_to(Position())
        assert list(file.rows()) == rows
    with TextFile(path, text_form) as file:
        file.skip_to(positions[place])
        assert list(file.rows()) == rows[place:]
        assert file.position == positions[-1]


def after_growth(folder: Path, before: bytes, after: bytes) -> list[Record | BadLine]:
    """What a second reader finds in a file that has changed since the first one."""
    path = written(folder, "a.txt", before)
    with TextFile(path, form_of(path)) as file:
        list(file.rows())
        position = file.position
    path.write_bytes(after)
    with TextFile(path, form_of(path)) as file:
        file.skip_to(position)
        assert file.at_end() == (len(after) <= len(before))
        return list(file.rows())


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (b"one\n", b"one\n", []),
        (b"one\n", b"one\ntwo", [(2, "two")]),
        (b"one", b"one\ntwo\n", [(2, "two")]),
        (b"one", b"one\r\ntwo\n", [(2, "two")]),
        (b"one\n" + b"x" * (1 << 21), b"one\n" + b"x" * (1 << 21) + b"\nthree", [(3, "three")]),
        (b"", b"one", [(1, "one")]),
    ],
)
def test_a_file_that_has_grown(tmp_path: Path, before: bytes, after: bytes, found: list[tuple[int, str]]) -> None:
    """Its new lines alone, with their numbers in the file."""
    assert [(row.line, row.text) for row in after_growth(tmp_path, before, after)] == found


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"one\n", b"two\nthree\n", "its first 1 lines, 4 bytes of text, are not those"),
        (b"one\ntwo\n", b"one\n", "its first 2 lines"),
        (b"a" * 5_000_000 + b"\n", b"a" * 2_500_000 + b"b" + b"a" * 2_499_999 + b"\nc\n", "its first 1 lines"),
        (b"one", b"one and a half\n", "line 1 was its last, without a newline, and has become longer"),
    ],
)
def test_a_file_that_has_changed(tmp_path: Path, before: bytes, after: bytes, message: str) -> None:
    """Wherever it has, to the byte."""
    with pytest.raises(InputChanged, match=message):
        after_growth(tmp_path, before, after)


def test_a_parquet_file_is_gone_on_with_by_its_rows(tmp_path: Path) -> None:
    """A file that is written anew with more rows, in other row groups, is the same one, longer."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS[:2]}), path)
    with TextFile(path, form_of(path)) as file:
        list(file.rows())
        position = file.position
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path, row_group_size=1)
    with TextFile(path, form_of(path)) as file:
        file.skip_to(position)
        assert file.share_read(file.position) == 0.5
        assert [(row.line, row.text) for row in file.rows()] == [(3, TEXTS[2]), (4, TEXTS[3])]


@pytest.mark.parametrize(("pack", "known"), [(bytes, True), (gzip.compress, True)])
def test_the_share_read(tmp_path: Path, pack: Callable[[bytes], bytes], known: bool) -> None:
    """From 0 to 1, of a file whose size is known."""
    path = written(tmp_path, "a.txt", pack(PLAIN))
    with TextFile(path, form_of(path)) as file:
        list(file.rows())
        assert file.share_read(file.position) == 1.0


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    """From where it is, in pieces of any size; how far it is read is not known."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    packed = gzip.compress(codecs.BOM_UTF8 + PLAIN)

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            for place in range(len(packed)):
                pipe.write(packed[place : place + 1])

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        with TextFile(path, form_of(path)) as file:
            assert texts_of(list(file.rows())) == TEXTS
            assert file.share_read(file.position) is None
        writing.result()


def test_standard_input(tmp_path: Path) -> None:
    """- is standard input, whatever it holds; Parquet cannot be read from it."""
    code = (
        "from common.texts import *\n"
        "with TextFile(STANDARD_INPUT, form_of(STANDARD_INPUT)) as file: print([row.text for row in file.rows()])\n"
        "try: TextFile(STANDARD_INPUT, form_of(STANDARD_INPUT, Format.PARQUET)).__enter__()\n"
        "except SourceError as error: print(error)"
    )
    content = gzip.compress("\ufeffone\ntwo".encode("utf-16-le"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=content, capture_output=True, check=True)
    texts, refusal = done.stdout.decode().splitlines()
    assert texts == "['one', 'two']"
    assert "not from standard input" in refusal
