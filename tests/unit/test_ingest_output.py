"""The output files: whatever a kill leaves behind, resuming continues from the last commit, byte for byte."""

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.texts import BadLine, Fault, Position, Record
from gateway.client.journal import CannotResume, Occupied, Origin
from gateway.client.output import Answer, Output, Paths

ORIGIN = Origin("m", "f1", 4, {"text_field": "text"})


def answer(number: int) -> Answer:
    """The answer to chunk `number`: two records, and a bad line in every other chunk."""
    records = [Record(10 * number + i, f"id{number}.{i}", "text") for i in range(2)]
    vectors = np.full((2, 4), number, dtype=np.float32) + np.arange(2, dtype=np.float32)[:, None] / 10
    bad = [BadLine(10 * number + 5, "no text", Fault.NO_TEXT)] if number % 2 else []
    return Answer(records, vectors, ["miss", "exact"], 3, bad, 1, Position(10 * number + 10, 10 * number + 9))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(folder: Path, count: int, **options) -> None:
    """Do all of an ingestion of `count` chunks that is not done yet, and complete it."""
    with Output(Paths(folder / "v.npy"), ORIGIN, **options) as output:
        if not output.journal.complete:
            for number in range(output.journal.position.offset // 10, count):
                output.append(answer(number))
            output.complete()


def test_a_complete_output_is_an_array_with_ids_beside_it(tmp_path):
    """The .npy loads, row i belongs to line i of the ids, and bad lines are in their own file."""
    write(tmp_path, 3)
    vectors = np.load(tmp_path / "v.npy")
    ids = [orjson.loads(line) for line in (tmp_path / "v.ids.jsonl").read_bytes().splitlines()]
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == pytest.approx([0, 0.1, 1, 1.1, 2, 2.1])
    assert [row["id"] for row in ids] == ["id0.0", "id0.1", "id1.0", "id1.1", "id2.0", "id2.1"]
    assert orjson.loads((tmp_path / "v.bad.jsonl").read_bytes()) == {"line": 15, "reason": "no text"}
    journal = orjson.loads((tmp_path / "v.ingest.json").read_bytes())
    assert journal["complete"]
    assert journal["counts"] == {
        "rows": 6, "bad_lines": 1, "blank_lines": 3, "tokens": 9,
        "tiers": {"miss": 3, "exact": 3}, "faults": {"no text": 1},
    }  # fmt: skip
    assert sorted(contents(tmp_path)) == ["v.bad.jsonl", "v.ids.jsonl", "v.ingest.json", "v.npy"]


@given(
    committed=st.integers(0, 5),
    appended=st.integers(0, 3),
    flushed=st.lists(st.booleans(), min_size=3, max_size=3),
    tail=st.binary(max_size=50),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_kill_anywhere_leaves_what_an_uninterrupted_run_would_have_made(tmp_path, committed, appended, flushed, tail):
    """Committed chunks, then chunks that reached some files and not others, then half a write: all of it is mended."""
    shutil.rmtree(tmp_path)
    for name in ("whole", "killed", "left"):
        (tmp_path / name).mkdir(parents=True)
    write(tmp_path / "whole", 8)
    with Output(Paths(tmp_path / "killed" / "v.npy"), ORIGIN) as output:
        for number in range(committed):
            output.append(answer(number))
        output.commit()
        for number in range(committed, committed + appended):
            output.append(answer(number))
        for file, reached in zip((output._vectors, output._ids, output._bad), flushed, strict=True):
            if reached:
                file.flush()
        left = tmp_path / "left"  # what the disk holds at the kill
        shutil.copytree(tmp_path / "killed", left, dirs_exist_ok=True)
    for name in ("v.npy.partial", "v.ids.jsonl", "v.bad.jsonl"):
        with (left / name).open("ab") as file:
            file.write(tail)
    write(left, 8)
    assert contents(left) == contents(tmp_path / "whole")


def test_a_partial_output_is_a_whole_array_at_every_commit(tmp_path):
    """Vectors can be looked at before the end."""
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as output:
        output.append(answer(0))
        output.commit()
        shutil.copy(tmp_path / "v.npy.partial", tmp_path / "look.npy")
    assert np.load(tmp_path / "look.npy").shape == (2, 4)
    assert not (tmp_path / "v.npy").exists()


def test_a_kill_between_the_last_two_steps_is_completed(tmp_path):
    """Vectors in place, journal not yet marked: the next run marks it and does nothing else."""
    write(tmp_path, 2)
    whole = contents(tmp_path)
    journal = tmp_path / "v.ingest.json"
    journal.write_bytes(orjson.dumps({**orjson.loads(journal.read_bytes()), "complete": False}))
    write(tmp_path, 2)
    assert contents(tmp_path) == whole


def test_a_complete_output_is_left_alone(tmp_path):
    """A second run opens nothing and changes nothing."""
    write(tmp_path, 2)
    whole = contents(tmp_path)
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as output:
        assert output.journal.complete
    assert contents(tmp_path) == whole


def test_another_origin_is_refused_and_nothing_is_touched(tmp_path):
    """Refused before any file is opened."""
    write(tmp_path, 2)
    whole = contents(tmp_path)
    with (
        pytest.raises(CannotResume, match="fingerprint"),
        Output(Paths(tmp_path / "v.npy"), replace(ORIGIN, fingerprint="f2")),
    ):
        pytest.fail("it was opened")
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("name", ["v.npy", "v.npy.partial", "v.ids.jsonl", "v.bad.jsonl"])
def test_files_of_unknown_origin_are_not_overwritten(tmp_path, name):
    """Somebody's file of that name stays, unless told to start over."""
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(CannotResume, match="no journal records how"), Output(Paths(tmp_path / "v.npy"), ORIGIN):
        pytest.fail("it was opened")
    assert contents(tmp_path) == {name: b"precious"}


def test_starting_over_replaces_everything(tmp_path):
    """The result is that of a first run, whatever was there."""
    (tmp_path / "fresh").mkdir()
    (tmp_path / "again").mkdir()
    write(tmp_path / "fresh", 2)
    write(tmp_path / "again", 5)
    write(tmp_path / "again", 2, start_over=True)
    assert contents(tmp_path / "again") == contents(tmp_path / "fresh")


def test_two_runs_do_not_write_one_output(tmp_path):
    """The second is refused while the first works, also when told to start over, and removes nothing."""
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as output:
        output.append(answer(0))
        output.commit()
        before = contents(tmp_path)
        for start_over in (False, True):
            second = Output(Paths(tmp_path / "v.npy"), ORIGIN, start_over=start_over)
            with pytest.raises(Occupied, match="another ingestion"), second:
                pytest.fail("it was opened")
        assert contents(tmp_path) == before


def origin_of(path: Path) -> Origin:
    return replace(ORIGIN, options={**ORIGIN.options, "output": path.suffix})


@pytest.mark.parametrize("start_over", [False, True])
@pytest.mark.parametrize("is_complete", [False, True])
def test_the_files_beside_it_stay_with_the_output_they_are_of(tmp_path, start_over, is_complete):
    """v.parquet would share them with v.npy: it is refused by name, and nothing is touched."""
    first, second = tmp_path / "v.npy", tmp_path / "v.parquet"
    with Output(Paths(first), origin_of(first)) as output:
        output.append(answer(0))
        output.complete() if is_complete else output.commit()
    before = contents(tmp_path)
    refused = Output(Paths(second), origin_of(second), start_over=start_over)
    with pytest.raises(Occupied, match=r"belong to .*v\.npy, and v\.parquet would .* another name than v$"), refused:
        pytest.fail("it was opened")
    assert contents(tmp_path) == before


def test_two_runs_that_begin_at_once_do_not_share_them_either(tmp_path):
    """The other has its lock, and no journal yet."""
    first, second = Paths(tmp_path / "v.npy"), Paths(tmp_path / "v.parquet")
    with first.partial.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Occupied, match="belong to"), Output(second, origin_of(second.vectors)):
            pytest.fail("it was opened")
    first.partial.unlink()
    with Output(second, origin_of(second.vectors)):
        pass


def test_files_beside_an_output_that_is_gone_may_be_taken(tmp_path):
    """By starting over, as by another run of the same output."""
    first, second = tmp_path / "v.npy", tmp_path / "v.parquet"
    with Output(Paths(first), origin_of(first)) as output:
        output.append(answer(0))
        output.complete()
    first.unlink()
    with pytest.raises(CannotResume, match=r"output is \.parquet now and was \.npy"):
        Output(Paths(second), origin_of(second)).__enter__()
    with Output(Paths(second), origin_of(second), start_over=True) as output:
        assert output.journal.counts.rows == 0


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_journal_of_no_vectors_binds_nobody(tmp_path, is_complete):
    """A run with other options, or of a mended input, is as good as a first one."""
    with Output(Paths(tmp_path / "v.npy"), replace(ORIGIN, options={"text_field": "body"})) as output:
        bad = [BadLine(1, "not JSON", Fault.NOT_JSON)]
        output.append(Answer([], np.empty((0, 4), np.float32), [], 0, bad, 0, Position(10, 1, "aa")))
        output.complete() if is_complete else output.commit()
        if not is_complete:  # it may still get some
            with pytest.raises(Occupied, match="is writing"), Output(Paths(tmp_path / "v.npy"), ORIGIN):
                pytest.fail("it was opened")
    write(tmp_path, 2)
    (tmp_path / "fresh").mkdir()
    write(tmp_path / "fresh", 2)
    fresh = contents(tmp_path / "fresh")
    assert {name: (tmp_path / name).read_bytes() for name in fresh} == fresh


def test_vectors_that_are_not_of_the_journal_of_none_are_kept(tmp_path):
    """Somebody put them there since."""
    write(tmp_path, 0)
    (tmp_path / "v.npy").write_bytes(b"precious")
    with pytest.raises(CannotResume, match="has changed its size"), Output(Paths(tmp_path / "v.npy"), ORIGIN):
        pytest.fail("it was opened")


@pytest.mark.parametrize("name", ["v.npy.partial", "v.ids.jsonl"])
def test_files_shorter_than_the_journal_says_are_refused(tmp_path, name):
    """Lost data is said, not papered over."""
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as output:
        output.append(answer(0))
        output.commit()
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CannotResume, match="where the journal has"), Output(Paths(tmp_path / "v.npy"), ORIGIN):
        pytest.fail("it was opened")


def test_a_complete_output_that_is_gone_is_said(tmp_path):
    """A journal without its vectors does not count as done."""
    write(tmp_path, 1)
    (tmp_path / "v.npy").unlink()
    with pytest.raises(CannotResume, match="is gone"), Output(Paths(tmp_path / "v.npy"), ORIGIN):
        pytest.fail("it was opened")


def test_an_empty_input_makes_an_empty_array(tmp_path):
    """No rows, the right length of rows."""
    write(tmp_path, 0)
    assert np.load(tmp_path / "v.npy").shape == (0, 4)


def test_vectors_of_another_shape_are_refused(tmp_path):
    """Rows and vectors agree, or nothing is written."""
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as output:
        with pytest.raises(ValueError, match="shape"):
            output.append(replace(answer(0), vectors=np.zeros((2, 3), dtype=np.float32)))
        assert output.journal.counts.rows == 0


def test_the_output_is_named_after_an_npy_file():
    """Anything else is refused before anything is done."""
    with pytest.raises(ValueError, match=r"\.npy"):
        Paths(Path("vectors"))
    paths = Paths(Path("a/b.c.npy"))
    assert [p.name for p in (paths.ids, paths.bad, paths.journal)] == [
        "b.c.ids.jsonl",
        "b.c.bad.jsonl",
        "b.c.ingest.json",
    ]
