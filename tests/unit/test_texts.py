"""The reader of text files: formats, encodings, compression, unusable lines, bounds, and going on from a position."""

import codecs
import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow
import pyarrow.parquet
import pytest

from common.texts import (
    BadLine,
    BadLines,
    Fault,
    Format,
    Record,
    SourceError,
    Tally,
    TextFile,
    TextForm,
    form_of,
)
from deploy.install import ROOT

TEXTS = ["one", "zwei, ä", 'three "quoted"', "vier\u2028fünf"]
JSON_LINES = b"".join(orjson.dumps({"id": f"i{n}", "text": text}) + b"\n" for n, text in enumerate(TEXTS))
CSV = 'id,text\r\ni0,one\r\ni1,"zwei, ä"\r\ni2,"three ""quoted"""\r\ni3,vier\u2028fünf\r\n'.encode()
TSV = 'text\tid\none\ti0\nzwei, ä\ti1\nthree "quoted"\ti2\nvier\u2028fünf\ti3\n'.encode()
PLAIN = ("\n".join(TEXTS) + "\n").encode()


def rows_of(path: Path, form: TextForm | None = None) -> list[Record | BadLine]:
    with TextFile(path, form or form_of(path, id_field="id")) as file:
        return list(file.rows())


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def texts_of(rows: list[Record | BadLine]) -> list[str]:
    return [row.text for row in rows if isinstance(row, Record)]


def bad_in(rows: list[Record | BadLine]) -> list[tuple[int, Fault]]:
    return [(row.line, row.fault) for row in rows if isinstance(row, BadLine)]


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-8": lambda content: content,
    "byte order mark": lambda content: codecs.BOM_UTF8 + content,
    "UTF-16 LE": lambda content: codecs.BOM_UTF16_LE + content.decode().encode("utf-16-le"),
    "UTF-16 BE": lambda content: codecs.BOM_UTF16_BE + content.decode().encode("utf-16-be"),
    "gzip": gzip.compress,
    "gzip of a byte order mark": lambda content: gzip.compress(codecs.BOM_UTF8 + content),
    "gzip of UTF-16": lambda content: gzip.compress(content.decode().encode("utf-16")),
    "two gzip members": lambda content: gzip.compress(content[:11]) + gzip.compress(content[11:]),
    "CRLF": lambda content: content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "no newline at the end": lambda content: content.rstrip(b"\r\n"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", JSON_LINES), ("a.csv", CSV), ("a.tsv.gz", TSV), ("a.txt", PLAIN), ("a", PLAIN)]
)
def test_every_format_in_every_encoding(tmp_path: Path, encoding: str, name: str, content: bytes) -> None:
    """The same texts, with their ids where the format has them; compression and encoding are seen, not named."""
    rows = rows_of(written(tmp_path, name, ENCODINGS[encoding](content)))
    assert texts_of(rows) == TEXTS
    has_ids = b"i1" in content
    assert [row.id for row in rows] == (["i0", "i1", "i2", "i3"] if has_ids else [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JSONL", Format.JSONL), ("a.ndjson.gz", Format.JSONL), ("a.csv.GZ", Format.CSV), ("a.tsv", Format.TSV),
        ("a.parquet", Format.PARQUET), ("a.gz", Format.TEXT), ("-", Format.TEXT), ("jsonl", Format.TEXT),
    ],
)  # fmt: skip
def test_the_suffix_says_the_format(name: str, expected: Format) -> None:
    """A compressed file's is before .gz; anything else has the command's default; an option goes before all."""
    assert form_of(Path(name)).format is expected
    assert form_of(Path(name), Format.CSV, default=Format.JSONL).format is Format.CSV


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", Fault.NOT_JSON),
        (b'{"text": NaN}', Fault.NOT_JSON),
        (b'{"text": "\\ud800"}', Fault.NOT_JSON),
        (b'{"text": "\xff"}', Fault.NOT_UTF8),
        (b"[1]", Fault.NO_TEXT),
        (b"1", Fault.NO_TEXT),
        (b'{"body": "a"}', Fault.NO_TEXT),
        (b'{"text": null}', Fault.NO_TEXT),
        (b'{"text": ["a"]}', Fault.NO_TEXT),
        (b'{"text": ""}', Fault.EMPTY),
        (b'" "', Fault.EMPTY),
        (b'{"text": "a", "id": 1.5}', Fault.UNUSABLE_ID),
        (b'{"text": "a", "id": true}', Fault.UNUSABLE_ID),
        (b'{"text": "a", "id": 99999999999999999999}', Fault.UNUSABLE_ID),
        (b'{"text": "' + b"a" * 200 + b'"}', Fault.TOO_LONG),
        (b" ", Fault.BLANK),
    ],
)
def test_a_json_line_at_fault_is_passed_over(tmp_path: Path, line: bytes, fault: Fault) -> None:
    """It alone: what is before and after is used; bare strings are texts; the reason does not hold the text."""
    path = written(tmp_path, "a.jsonl", b'"before"\n' + line + b'\n{"text": "after", "id": null}')
    rows = rows_of(path, form_of(path, id_field="id", max_line_bytes=100))
    assert rows[0] == Record(1, 1, "before")
    assert rows[2] == Record(3, 3, "after")
    assert bad_in(rows) == [(2, fault)]
    assert "aaaa" not in rows[1].reason


def test_plain_lines(tmp_path: Path) -> None:
    """Stripped; a broken one is at fault alone."""
    path = written(tmp_path, "a.txt", b" one \n\n\xff\n" + b"x" * 300 + b"\ntwo")
    rows = rows_of(path, form_of(path, max_line_bytes=100))
    assert texts_of(rows) == ["one", "two"]
    assert bad_in(rows) == [(2, Fault.BLANK), (3, Fault.NOT_UTF8), (4, Fault.TOO_LONG)]


def test_csv_rows(tmp_path: Path) -> None:
    """A quoted cell spans lines, a quote inside a word is one; what is malformed is passed over, with its extent."""
    content = (
        b'\nid,text,n\n1,"two\nlines",x\n2,5" pipe,x\n3\n\n4,,x\n5,\xff,x\n\xff,six,x\n7,"a"b,x\n,eight,x\n9,'
        + b"x" * 99 + b'\n10,ten,x\n11,"never closed,x\n12,twelve,x\n'
    )  # fmt: skip
    path = written(tmp_path, "a.csv", content)
    rows = rows_of(path, form_of(path, id_field="id", max_line_bytes=80))
    assert [(row.line, row.id, row.text) for row in rows if isinstance(row, Record)] == [
        (3, "1", "two\nlines"), (5, "2", '5" pipe'), (12, 12, "eight"), (14, "10", "ten"),
    ]  # fmt: skip
    assert bad_in(rows) == [
        (6, Fault.NO_TEXT), (7, Fault.BLANK), (8, Fault.EMPTY), (9, Fault.NOT_UTF8), (10, Fault.NOT_UTF8),
        (11, Fault.NOT_CSV), (13, Fault.TOO_LONG), (15, Fault.NOT_CSV),
    ]  # fmt: skip
    assert rows[-1].reason.endswith("(lines 15 to 16)")


def test_a_quote_that_is_not_closed_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    """Rows behind it are read again."""
    path = written(tmp_path, "a.csv", b'text\n"open\n' + b"row\n" * 100)
    rows = rows_of(path, form_of(path, max_line_bytes=40))
    assert bad_in(rows) == [(2, Fault.TOO_LONG)]
    assert len(texts_of(rows)) == 100 - 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,body\n1,a\n", "the header names no column 'text'; it has id, body"),
        ("a.tsv", b"id,text\n1,a\n", "the header names no column 'text'"),
        ("a.csv", b'"open', "the header cannot be read: not CSV"),
        ("a.txt", b"\x28\xb5\x2f\xfd....", "zstd -dc"),
        ("a.txt", b"\xfd7zXZ\0..", "xz -dc"),
        ("a.txt", b"BZh9....", "bzip2 -dc"),
        ("a.zip", b"PK\x03\x04....", "zip archive"),
        ("a.jsonl", b"PAR1....", "--format parquet"),
        ("a.txt", "ab".encode("utf-16-le"), "iconv"),
        ("a.txt", "ab".encode("utf-32"), "iconv"),
        ("a.jsonl.gz", gzip.compress(b"PAR1....", mtime=0), "Parquet"),
        ("a.parquet", b"no", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Nothing is taken from it."""
    path = written(tmp_path, name, content)
    with pytest.raises(SourceError, match=message) as caught:
        rows_of(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:60] + b"xxxx" + c[64:], lambda c: c + b"\x1f\x8bxx"])
def test_a_damaged_gzip_file_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Never an early end without a word."""
    content = gzip.compress(b"".join(b"%x\n" % (n * n * n) for n in range(2000)))
    with pytest.raises(SourceError, match="is damaged behind line"):
        rows_of(written(tmp_path, "a.gz", damage(content)))


def test_what_is_before_the_damage_is_read(tmp_path: Path) -> None:
    """To the last byte that can be unpacked."""
    path = written(tmp_path, "a.gz", gzip.compress(PLAIN)[:-4])
    with TextFile(path, form_of(path)) as file:
        rows = file.rows()
        assert [next(rows).text for _ in TEXTS] == TEXTS
        with pytest.raises(SourceError, match="is damaged behind line 4"):
            next(rows)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_broken_utf_16_costs_its_line(tmp_path: Path, codec: str) -> None:
    """A lone surrogate, and half a character at the end."""
    content = "\ufeffone\nt\ud800o\nthree\n".encode(codec, "surrogatepass") + b"x"
    rows = rows_of(written(tmp_path, "a.txt", content))
    assert texts_of(rows) == ["one", "three"]
    assert bad_in(rows) == [(2, Fault.NOT_UTF8), (4, Fault.NOT_UTF8)]


# --- Parquet


def parquet(path: Path, **options) -> Path:
    table = pyarrow.table({"n": [0.5] * 4, "text": [*TEXTS[:3], None], "id": [7, 8, None, 9]})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def test_parquet_rows(tmp_path: Path) -> None:
    """Texts and whole ids by the names of their columns; a null is a row without a text."""
    rows = rows_of(parquet(tmp_path / "a.parquet", row_group_size=2))
    assert rows[:3] == [Record(1, 7, TEXTS[0]), Record(2, 8, TEXTS[1]), Record(3, 3, TEXTS[2])]
    assert bad_in(rows) == [(4, Fault.NO_TEXT)]


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_other_kinds_of_strings(tmp_path: Path, kind: pyarrow.DataType) -> None:
    """Large strings and dictionaries."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(TEXTS).cast(kind)}), path)
    assert texts_of(rows_of(path)) == TEXTS


def test_a_string_in_parquet_that_is_not_utf_8(tmp_path: Path) -> None:
    """It alone is passed over."""
    bytes_column = pyarrow.array([b"one", b"\xff", b"three"], pyarrow.binary())
    strings = pyarrow.Array.from_buffers(pyarrow.string(), 3, bytes_column.buffers())
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), path)
    rows = rows_of(path)
    assert texts_of(rows) == ["one", "three"]
    assert bad_in(rows) == [(2, Fault.NOT_UTF8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": "body"}, "has no column 'body'; it has n, text, id"),
        ({"text_field": "id"}, "the column 'id' holds int64, not strings"),
        ({"id_field": "n"}, "the column 'n' holds double"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path: Path, options: dict[str, str], message: str) -> None:
    """Named, with what there is."""
    path = parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=message):
        rows_of(path, form_of(path, **options))


def test_parquet_damaged_in_the_middle(tmp_path: Path) -> None:
    """An error, not a traceback and not an early end."""
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {n}" for n in range(9999)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[5000:6000] = bytes(1000)
    with pytest.raises(SourceError, match="is damaged"):
        rows_of(written(tmp_path, "b.parquet", bytes(content)))


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path) -> None:
    """The extra; and a reader of other formats does not import it."""
    path = parquet(tmp_path / "a.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path; from common.texts import TextFile, form_of\n"
        "try: TextFile(Path(sys.argv[1]), form_of(Path(sys.argv[1]))).__enter__()\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f'{path}: reading Parquet needs pyarrow: .venv/bin/pip install -e ".[parquet]"\n'


# --- What is told of it


def test_a_tally_names_what_was_skipped(tmp_path: Path) -> None:
    """Read, used, and skipped by reason with the first line of each; bad lines are listed, blank ones are not."""
    tally, listed = Tally(), tmp_path / "bad.jsonl"
    path = written(tmp_path, "a.jsonl", b'"one"\n\n{\n{}\n\n[]\n')
    with BadLines(listed) as bad_lines, TextFile(path, form_of(path)) as file:
        for row in file.rows():
            tally.add(row)
            bad_lines.add(row)
    tally.add(BadLine(7, "refused by the gateway: too long", Fault.REFUSED))
    assert tally.to_json()["read"] == 7
    assert str(tally).startswith("7 lines read, 1 used, 6 skipped: 2 blank, 2 no text (first: line 4: no text: ")
    assert "1 refused by the gateway (first: line 7: refused by the gateway: too long)" in str(tally)
    assert [orjson.loads(line)["line"] for line in listed.read_bytes().splitlines()] == [3, 4, 6]
    assert str(Tally(used=2)) == "2 lines read, 2 used"
