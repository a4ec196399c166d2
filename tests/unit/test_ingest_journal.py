"""The journal: read back as written, refused when it is of something else, and the input's mark."""

import io
from dataclasses import replace

import pytest

from gateway.client.journal import CannotResume, Counts, InputMark, Journal, Origin, mark_of, replace_file
from gateway.client.lines import Position

ORIGIN = Origin(InputMark(100, "aa"), "m", "f1", 8, {"text_field": "text", "min_fidelity": None})
JOURNAL = Journal(ORIGIN, Position(50, 3), Counts(2, 1, 9, {"miss": 2}), ids_bytes=20, bad_bytes=5)


def test_it_is_read_back_as_written():
    """Every field survives its JSON."""
    assert Journal.from_json(JOURNAL.to_json()) == JOURNAL
    done = replace(JOURNAL, complete=True)
    assert Journal.from_json(done.to_json()) == done


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b"null"])
def test_what_is_no_journal_is_refused(body):
    """A file that cannot be read is not guessed at."""
    with pytest.raises(CannotResume, match="start over"):
        Journal.from_json(body)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": InputMark(101, "bb")}, "it has 101 bytes, and 100"),
        ({"input": InputMark(100, "bb")}, "other content"),
        ({"model": "n"}, "serves n, the vectors so far are of m"),
        ({"fingerprint": "f2"}, "must not mix"),
        ({"dimensions": 4}, "dimensions is 4 now and was 8"),
        ({"options": {"text_field": "body", "min_fidelity": None}}, "text_field is 'body' now and was 'text'"),
        ({"options": {"text_field": "text", "min_fidelity": 0.9}}, "min_fidelity is 0.9 now and was None"),
    ],
)
def test_another_origin_is_refused_by_name(changed, message):
    """Input, model, fingerprint and every option must be the same; the message names what is not."""
    with pytest.raises(CannotResume, match=message):
        JOURNAL.require(replace(ORIGIN, **changed))


def test_the_same_origin_passes():
    """Nothing to say."""
    JOURNAL.require(replace(ORIGIN))


def test_counts_add_up():
    """Rows, bad lines, tokens and tiers accumulate."""
    counts = Counts().plus(["miss", "exact", "miss"], 1, 10).plus(["exact"], 0, 5)
    assert counts == Counts(4, 1, 15, {"miss": 2, "exact": 2})


def test_the_mark_sees_size_head_and_tail():
    """Inputs that differ in length, beginning or end have different marks; the same bytes the same one."""
    base = bytes(5 << 20)
    contents = [base, base + b"x", b"x" + base[1:], base[:-1] + b"x", b"", b"x"]
    marks = [mark_of(io.BytesIO(content)) for content in contents]
    assert len(set(marks)) == len(contents)
    assert mark_of(io.BytesIO(bytes(5 << 20))) == marks[0]


def test_a_file_is_replaced_whole(tmp_path):
    """No draft stays behind."""
    path = tmp_path / "journal.json"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
