"""The journal: read back as written, and refused when it is of something else."""

from dataclasses import replace

import pytest

from common.texts import BadLine, Fault, Format, Position
from gateway.client.journal import CannotResume, Counts, Journal, Origin, replace_file

ORIGIN = Origin("m", "f1", 8, {"text_field": "text", "min_fidelity": None})
COUNTS = Counts(rows=2, bad_lines=1, blank_lines=1, tokens=9, tiers={"miss": 2}, faults={"not JSON": 1})
JOURNAL = Journal(ORIGIN, Position(50, 4, "aa"), COUNTS, ids_bytes=20, bad_bytes=5)


def test_it_is_read_back_as_written():
    """Every field survives its JSON."""
    assert Journal.from_json(JOURNAL.to_json()) == JOURNAL
    done = replace(JOURNAL, complete=True, finished_bytes=192)
    assert Journal.from_json(done.to_json()) == done


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b"null"])
def test_what_is_no_journal_is_refused(body):
    """A file that cannot be read is not guessed at."""
    with pytest.raises(CannotResume, match="start over"):
        Journal.from_json(body)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "n"}, "the model is n, the vectors so far are of m"),
        ({"fingerprint": "f2"}, "must not mix"),
        ({"dimensions": 4}, "dimensions is 4 now and was 8"),
        ({"options": {"text_field": "body", "min_fidelity": None}}, "text_field is body now and was text when"),
        ({"options": {"text_field": "text", "min_fidelity": 0.9}}, "min_fidelity is 0.9 now and was not given when"),
        ({"options": {"text_field": Format.CSV, "min_fidelity": None}}, "text_field is csv now and was text when"),
    ],
)
def test_another_origin_is_refused_by_name(changed, message):
    """Model, fingerprint and every option must be the same; the message names what is not."""
    with pytest.raises(CannotResume, match=message):
        JOURNAL.require(replace(ORIGIN, **changed))


def test_the_same_origin_passes():
    """Nothing to say."""
    JOURNAL.require(replace(ORIGIN))


def test_counts_add_up():
    """Rows, bad and blank lines, tokens and tiers accumulate; together they are the lines read."""
    bad = BadLine(1, "why", Fault.NO_TEXT)
    counts = Counts().plus(["miss", "exact", "miss"], [bad], 2, 10).plus(["exact"], [bad], 0, 5)
    assert counts == Counts(4, 2, 2, 15, {"miss": 2, "exact": 2}, {"no text": 2})
    assert counts.lines == 8


def test_a_file_is_replaced_whole(tmp_path):
    """No draft stays behind."""
    path = tmp_path / "journal.json"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
