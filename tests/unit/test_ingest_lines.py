"""Reading JSONL: what is a record, what is set aside and why, and that reading may stop and go on at any chunk."""

import io

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.lines import BadLine, Chunk, LineFormat, Position, Record, read_chunks

FORM = LineFormat(max_line_bytes=200)
START = Position()


def read(content: bytes, start: Position = START, size: int | None = None, form=FORM, **limits) -> list[Chunk]:
    limits = {"max_texts": 3, "max_bytes": 10_000, **limits}
    return list(read_chunks(io.BytesIO(content), start, len(content) if size is None else size, form, **limits))


def records(chunks: list[Chunk]) -> list[Record]:
    return [record for chunk in chunks for record in chunk.records]


def faults(chunks: list[Chunk]) -> list[BadLine]:
    return [bad for chunk in chunks for bad in chunk.bad]


LINES = st.lists(
    st.one_of(
        st.builds(lambda text: orjson.dumps({"text": text}), st.text(alphabet=st.characters(codec="utf-8"))),
        st.builds(lambda text, name: orjson.dumps({"id": name, "text": text}), st.text('ab\n"é'), st.integers(0, 99)),
        st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"")),
    ),
    max_size=30,
)


@given(LINES, st.booleans(), st.integers(1, 7), st.integers(1, 500))
def test_every_line_is_read_once_and_reading_resumes_anywhere(lines, ends_with_newline, max_texts, max_bytes):
    """Chunks cover the file; each line is a record, set aside or blank; starting at any chunk's end gives the rest."""
    content = b"\n".join(lines) + (b"\n" if ends_with_newline and lines else b"")
    chunks = read(content, max_texts=max_texts, max_bytes=max_bytes)
    seen = [item.line for item in [*records(chunks), *faults(chunks)]]
    assert len(seen) == len(set(seen))
    kept = {number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()}
    assert set(seen) <= set(range(1, len(lines) + 1))
    assert kept - set(seen) <= {1}  # a first line of nothing but a byte order mark
    assert all(len(chunk.records) <= max_texts for chunk in chunks)
    if chunks:
        assert chunks[-1].end.offset == len(content)
    for index, chunk in enumerate(chunks):
        assert read(content, chunk.end, max_texts=max_texts, max_bytes=max_bytes) == chunks[index + 1 :]


def test_ids_are_the_lines_own_or_their_numbers():
    """A string or whole number is kept as it is; a missing or null id is the line's number."""
    content = b'{"text": "a", "id": "x"}\n{"text": "b", "id": 7}\n{"text": "c"}\n{"text": "d", "id": null}'
    assert [(r.id, r.line) for r in records(read(content))] == [("x", 1), (7, 2), (3, 3), (4, 4)]


def test_fields_are_named_by_option():
    """Other names for text and id."""
    form = LineFormat(text_field="body", id_field="key")
    assert records(read(b'{"body": "a", "key": "k", "text": "no", "id": "no"}', form=form)) == [Record(1, "k", "a")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"text": NaN}', "not JSON"),
        (b'{"text": "\\ud800"}', "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"{}", "missing or null"),
        (b'{"text": null}', "missing or null"),
        (b'{"text": 1}', "not a string"),
        (b'{"text": ["a"]}', "not a string"),
        (b'{"text": ""}', "empty text"),
        (b'{"text": " \\n"}', "empty text"),
        (b'{"text": "a", "id": 1.5}', "neither a string nor"),
        (b'{"text": "a", "id": true}', "neither a string nor"),
        (b'{"text": "a", "id": 99999999999999999999}', "neither a string nor"),
        (b'{"text": "' + b"a" * 300 + b'"}', "too long: more than 200 bytes"),
    ],
)
def test_bad_lines_are_set_aside_with_their_reason(line, reason):
    """The line before and the line after are read all the same."""
    chunks = read(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    assert [r.text for r in records(chunks)] == ["before", "after"]
    assert [(bad.line, reason in bad.reason) for bad in faults(chunks)] == [(2, True)]


def test_blank_lines_are_no_lines_at_all_but_are_counted():
    """They are skipped, and line numbers still agree with an editor's."""
    assert [r.line for r in records(read(b'\n  \r\n{"text": "a"}\n\n{"text": "b"}'))] == [3, 5]


def test_a_byte_order_mark_is_dropped():
    """As Windows editors write it, on the first line only."""
    assert records(read(b'\xef\xbb\xbf{"text": "a"}\n')) == [Record(1, 1, "a")]


def test_a_line_of_just_the_limit_passes():
    """The limit counts the line without its newline."""
    line = b'{"text": "' + b"a" * (200 - 12) + b'"}'
    assert len(line) == 200
    assert len(records(read(line + b"\n" + line))) == 2
    assert [bad.line for bad in faults(read(b" " + line + b"\n" + line))] == [1]


def test_a_very_long_line_is_skipped_in_pieces():
    """A line larger than any buffer is passed over without being kept, also at the end of the file."""
    long = b"x" * (3 << 20)
    chunks = read(long + b'\n{"text": "a"}\n' + long)
    assert records(chunks) == [Record(2, 2, "a")]
    assert [bad.line for bad in faults(chunks)] == [1, 3]


def test_only_the_given_size_is_read():
    """What is appended to the file meanwhile is left alone."""
    content = b'{"text": "a"}\n{"text": "b"}\n'
    chunks = read(content + b'{"text": "c"}\n', size=len(content))
    assert [r.text for r in records(chunks)] == ["a", "b"]


def test_a_file_cut_short_ends_early():
    """Fewer bytes than said: the last position shows it."""
    chunks = read(b'{"text": "a"}\n', size=100)
    assert not chunks or chunks[-1].end.offset < 100


def test_chunks_end_by_bytes_too():
    """Long lines, and runs of bad ones, do not pile up in one chunk."""
    chunks = read(b"bad line\n" * 100, max_bytes=90)
    assert [len(chunk.bad) for chunk in chunks] == [10] * 10
