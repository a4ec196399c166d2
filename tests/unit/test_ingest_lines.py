"""Chunks of a file: every row in one, no more in one than allowed; reading stops and goes on at any of them."""

import asyncio
import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.texts import BadLine, Format, Position, Record, TextFile, TextForm
from gateway.client.lines import Chunk, read_chunks, read_in_thread

FORM = TextForm(Format.JSONL, id_field="id", max_line_bytes=200)
START = Position()


def read(folder: Path, content: bytes, start: Position = START, **limits) -> list[Chunk]:
    path = folder / "in.jsonl"
    path.write_bytes(content)
    with TextFile(path, FORM) as file:
        file.skip_to(start)
        return list(read_chunks(file, **{"max_texts": 3, "max_bytes": 10_000, **limits}))


def rows(chunks: list[Chunk]) -> list[Record | BadLine]:
    return sorted((row for chunk in chunks for row in [*chunk.records, *chunk.bad]), key=lambda row: row.line)


LINES = st.lists(
    st.one_of(
        st.builds(lambda text: orjson.dumps({"text": text}), st.text(alphabet=st.characters(codec="utf-8"))),
        st.builds(lambda text, name: orjson.dumps({"id": name, "text": text}), st.text('ab\n"é'), st.integers(0, 99)),
        # A NUL within the first bytes of a file is how other encodings are known: those have a test of their own.
        st.binary(max_size=300).map(lambda line: b"--------" + line.replace(b"\n", b"")),
        st.just(b""),
    ),
    max_size=30,
)


@given(LINES, st.booleans(), st.integers(1, 7), st.integers(1, 500))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_every_line_is_read_once_and_reading_resumes_anywhere(tmp_path, lines, ends, max_texts, max_bytes):
    """Chunks cover the file; each line is a record, set aside or blank; starting at any chunk's end gives the rest."""
    content = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    limits = {"max_texts": max_texts, "max_bytes": max_bytes}
    chunks = read(tmp_path, content, **limits)
    split = content.split(b"\n")
    assert [row.line for row in rows(chunks)] == [number for number, line in enumerate(split, 1) if line.strip()]
    n_lines = len(split) - (not split[-1])
    assert len(rows(chunks)) + sum(chunk.blank_lines for chunk in chunks) == n_lines
    assert all(len(chunk.records) <= max_texts for chunk in chunks)
    if chunks:
        assert (chunks[-1].end.offset, chunks[-1].end.line) == (len(content), n_lines)
    for index, chunk in enumerate(chunks):
        assert read(tmp_path, content, chunk.end, **limits) == chunks[index + 1 :]


def test_ids_are_the_lines_own_or_their_numbers(tmp_path):
    """A string or whole number is kept as it is; a missing or null id is the line's number."""
    content = b'{"text": "a", "id": "x"}\n{"text": "b", "id": 7}\n{"text": "c"}\n{"text": "d", "id": null}'
    assert [(r.id, r.line) for r in rows(read(tmp_path, content))] == [("x", 1), (7, 2), (3, 3), (4, 4)]


def test_a_very_long_line_is_set_aside(tmp_path):
    """One larger than any buffer, also at the end of the file."""
    long = b"x" * (3 << 20)
    first, record, last = rows(read(tmp_path, long + b'\n{"text": "a"}\n' + long))
    assert record == Record(2, 2, "a")
    assert (first.line, last.line, first.reason) == (1, 3, "too long: more than 200 bytes")


def test_chunks_end_by_bytes_too(tmp_path):
    """Long lines, and runs of bad ones, do not pile up in one chunk."""
    chunks = read(tmp_path, b"bad line\n" * 100, max_bytes=90)
    assert [len(chunk.bad) for chunk in chunks] == [10] * 10


async def test_chunks_are_read_beside_the_event_loop(tmp_path):
    """Each when it is asked for; a failure is raised where the chunk is awaited; whoever leaves early may."""

    def made():
        yield Chunk([], [], 1, START)
        yield Chunk([], [], 2, START)
        raise OSError("gone")

    following = read_in_thread(made())
    assert [(await anext(following)).blank_lines for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        await anext(following)
    following = read_in_thread(made())
    assert (await anext(following)).blank_lines == 1
    await following.aclose()


async def test_a_reader_that_waits_for_ever_can_be_left(tmp_path):
    """Such as one of standard input that nobody writes to."""

    def made():
        threading.Event().wait()
        yield

    waiting = asyncio.ensure_future(anext(read_in_thread(made())))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
