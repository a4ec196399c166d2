"""Finished vectors as Parquet, and outputs that go on when their input has grown, as if it had been long at first."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet
import pytest

from gateway.client import vector_files
from gateway.client.journal import CannotResume
from gateway.client.output import Output, Paths
from tests.unit.test_ingest_output import ORIGIN, answer, contents

SUFFIXES = ("npy", "parquet")


def write(folder: Path, suffix: str, count: int) -> None:
    """Do all of an ingestion of `count` chunks that is not done yet, and complete it."""
    with Output(Paths(folder / f"v.{suffix}"), ORIGIN) as output:
        done = output.journal.position.offset // 10
        if output.journal.complete and done < count:
            output.reopen()
        if not output.journal.complete:
            for number in range(done, count):
                output.append(answer(number))
            output.complete()


def loaded(folder: Path, suffix: str) -> np.ndarray:
    if suffix == "npy":
        return np.load(folder / "v.npy")
    table = pyarrow.parquet.read_table(folder / "v.parquet")
    return np.array(table["vector"].to_pylist(), dtype=np.float32).reshape(-1, 4)


def test_a_parquet_file_has_ids_lines_and_vectors(tmp_path, monkeypatch):
    """In row groups, with the model in its metadata; nothing of the work stays but ids, bad lines and journal."""
    monkeypatch.setattr(vector_files, "MAX_ROW_GROUP", 4)
    write(tmp_path, "parquet", 3)
    file = pyarrow.parquet.ParquetFile(tmp_path / "v.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [4, 2]
    assert file.schema_arrow.metadata[b"dejavec.fingerprint"] == b"f1"
    table = file.read()
    assert table.column_names == ["id", "line", "vector"]
    assert table["id"].to_pylist() == ["id0.0", "id0.1", "id1.0", "id1.1", "id2.0", "id2.1"]
    assert table["line"].to_pylist() == [0, 1, 10, 11, 20, 21]
    assert table["vector"].type == pyarrow.list_(pyarrow.float32(), 4)
    assert sorted(contents(tmp_path)) == ["v.bad.jsonl", "v.ids.jsonl", "v.ingest.json", "v.parquet"]
    (tmp_path / "array").mkdir()
    write(tmp_path / "array", "npy", 3)
    assert loaded(tmp_path, "parquet").tobytes() == loaded(tmp_path / "array", "npy").tobytes()


def test_an_empty_parquet_file(tmp_path):
    """No rows, the columns all the same."""
    write(tmp_path, "parquet", 0)
    assert pyarrow.parquet.read_table(tmp_path / "v.parquet").num_rows == 0
    write(tmp_path, "parquet", 1)
    assert loaded(tmp_path, "parquet").shape == (2, 4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_grown_output_is_that_of_a_long_input(tmp_path, suffix):
    """Byte for byte; the finished file stays whole until the longer one replaces it."""
    for name in ("long", "grown"):
        (tmp_path / name).mkdir()
    write(tmp_path / "long", suffix, 6)
    write(tmp_path / "grown", suffix, 2)
    before = (tmp_path / "grown" / f"v.{suffix}").read_bytes()
    with Output(Paths(tmp_path / "grown" / f"v.{suffix}"), ORIGIN) as output:
        output.reopen()
        output.append(answer(2))
        output.commit()
        assert (tmp_path / "grown" / f"v.{suffix}").read_bytes() == before
    write(tmp_path / "grown", suffix, 4)
    write(tmp_path / "grown", suffix, 6)
    assert contents(tmp_path / "grown") == contents(tmp_path / "long")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_between_any_two_steps_of_growing_is_mended(tmp_path, suffix, monkeypatch):
    """Whatever file was written last, the next run ends with the same bytes."""
    (tmp_path / "long").mkdir()
    write(tmp_path / "long", suffix, 4)
    steps = 0

    class Killed(BaseException):
        pass

    def step(real):
        def call(*arguments, **options):
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Killed
            return real(*arguments, **options)

        return call

    for killed_at in range(1, 40):
        folder = tmp_path / f"killed{killed_at}"
        folder.mkdir()
        write(folder, suffix, 2)
        with monkeypatch.context() as patch:
            steps = killed_at
            patch.setattr("gateway.client.output.os.fsync", step(lambda _: None))
            patch.setattr(Path, "replace", step(Path.replace))
            patch.setattr(Path, "unlink", step(Path.unlink))
            patch.setattr(shutil, "copyfileobj", step(shutil.copyfileobj))
            try:
                write(folder, suffix, 4)
            except Killed:
                pass
            else:
                break
        write(folder, suffix, 4)
        left = {name: content for name, content in contents(folder).items() if not name.endswith(".new")}
        assert left == contents(tmp_path / "long")
        shutil.rmtree(folder)
    assert killed_at > 8


def test_a_finished_parquet_file_that_has_changed_is_refused(tmp_path):
    """Another size is seen at once, another content when it is gone on with."""
    write(tmp_path, "parquet", 2)
    whole = (tmp_path / "v.parquet").read_bytes()
    (tmp_path / "v.parquet").write_bytes(bytes(len(whole)))
    with Output(Paths(tmp_path / "v.parquet"), ORIGIN) as output, pytest.raises(CannotResume, match="cannot be read"):
        output.reopen()
    (tmp_path / "v.parquet").write_bytes(whole + b"x")
    with pytest.raises(CannotResume, match="changed its size"), Output(Paths(tmp_path / "v.parquet"), ORIGIN):
        pytest.fail("it was opened")


def test_two_runs_do_not_go_on_with_one_output(tmp_path):
    """The second is refused while the first works, and when the first has ended before it looked again."""
    write(tmp_path, "npy", 1)
    with Output(Paths(tmp_path / "v.npy"), ORIGIN) as first, Output(Paths(tmp_path / "v.npy"), ORIGIN) as second:
        first.reopen()
        with pytest.raises(CannotResume, match="another ingestion is writing"):
            second.reopen()
        first.append(answer(1))
        first.complete()
        first.__exit__(None, None, None)
        with pytest.raises(CannotResume, match="has just worked on it"):
            second.reopen()
    assert np.load(tmp_path / "v.npy").shape == (4, 4)
    assert orjson.loads((tmp_path / "v.ingest.json").read_bytes())["complete"]


def test_another_length_of_vectors_is_no_finished_file_of_ours(tmp_path):
    """The journal and the file must agree."""
    write(tmp_path, "parquet", 2)
    journal = tmp_path / "v.ingest.json"
    entries = orjson.loads(journal.read_bytes())
    entries["counts"]["rows"] = 5
    journal.write_bytes(orjson.dumps(entries))
    with (
        Output(Paths(tmp_path / "v.parquet"), replace(ORIGIN)) as output,
        pytest.raises(CannotResume, match="does not hold the 5 vectors"),
    ):
        output.reopen()
