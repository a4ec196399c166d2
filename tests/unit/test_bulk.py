"""Bulk work without Ray: how files are cut, what is done again, what is refused, and that vectors are the engine's.

Ray's part is in tests/e2e/test_ray.py.
"""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

pytest.importorskip("fsspec", reason="bulk work needs the extra `ray`")

import fsspec

from bulk import cutting
from bulk.cli import ingest as command
from bulk.cutting import cut_file, read_part
from bulk.embed_part import Failed, PartWorker, Why
from bulk.job import BundleWay, GatewayWay, OutFormat
from bulk.run import Ingestion, Stopped, ingest
from bulk.sources import find
from common.texts import Format, InputChanged, SourceError, TextForm
from gateway.client.ingest import EmbedOptions
from gateway.client.journal import CannotResume, Occupied
from tests.integration.engine_under_test import write_tiny_bundle
from tests.integration.standin_gateway import StandIn, status, vector_of

FORM = TextForm(Format.JSONL, "text", "id")


class Here:
    """Workers without Ray; `stop_after` parts it is as if the process were killed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.done: list[int] = []
        self.cut: list[str] = []
        self._stop_after = stop_after

    def cut_all(self, files, part_texts):
        for file in files:
            self.cut.append(file.name)
            yield file.name, cut_file(file, part_texts)

    def do_all(self, parts, job):
        worker = PartWorker(job)
        try:
            for part in parts:
                if len(self.done) == self._stop_after:
                    raise KeyboardInterrupt
                self.done.append(part.number)
                yield worker.do(part)
        finally:
            worker.close()


class Quiet:
    def say(self, text):
        pass

    note = say

    def began(self, parts, done):
        pass

    def did(self, counts):
        pass


@contextmanager
def gateway(**options) -> Iterator[StandIn]:
    """A stand-in gateway on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stand_in = StandIn(**options)
    try:
        asyncio.run_coroutine_threadsafe(stand_in.__aenter__(), loop).result()
        yield stand_in
    finally:
        asyncio.run_coroutine_threadsafe(stand_in.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def served() -> Iterator[StandIn]:
    with gateway() as stand_in:
        yield stand_in


def lines_of(texts: list[str]) -> str:
    return "".join(json.dumps({"id": f"id {text}", "text": text}) + "\n" for text in texts)


def an_ingestion(source, out, way, **changes) -> Ingestion:
    plain = Ingestion(
        str(source), str(out), OutFormat.PARQUET, None, FORM, EmbedOptions(), way, part_texts=4, start_over=False
    )
    return replace(plain, **changes)


def through(stand_in: StandIn) -> GatewayWay:
    return GatewayWay(stand_in.url, None, None, batch=3, concurrency=2, patience_s=60.0)


def rows_of(out) -> list[dict]:
    """All rows of an output folder, as another program reads it."""
    return pq.read_table(str(out)).sort_by([("file", "ascending"), ("line", "ascending")]).to_pylist()


def json_rows(paths) -> list[dict]:
    return [json.loads(line) for path in sorted(paths) for line in path.read_text().splitlines()]


# --- cutting


@pytest.mark.parametrize("part_texts", [1, 3, 1000])
@pytest.mark.parametrize("end", ["\n", ""])
def test_parts_hold_each_line_once(tmp_path, monkeypatch, part_texts, end):
    """Whatever the size of parts and pieces: the same records and bad lines with the same numbers as in one part."""
    monkeypatch.setattr(cutting, "PIECE_BYTES", 16)
    content = "\ufeff" + lines_of(["a", "b"]) + "\n" + "no JSON\n" + lines_of(["c" * 100, "d\u2028d"]) + '"bare"' + end
    (tmp_path / "x.jsonl").write_text(content)
    (file,), left_out = find(str(tmp_path), None)
    assert left_out == []
    parts = cut_file(file, part_texts).parts
    read = [read_part(file.url, part, FORM) for part in parts]
    records = [(record.line, record.id, record.text) for records, _, _ in read for record in records]
    assert records == [
        (1, "id a", "a"),
        (2, "id b", "b"),
        (5, f"id {'c' * 100}", "c" * 100),
        (6, "id d\u2028d", "d\u2028d"),
        (7, 7, "bare"),
    ]
    assert [bad.line for _, bads, _ in read for bad in bads] == [4]
    assert sum(blank for _, _, blank in read) == 1
    assert sum(part.size for part in parts) == file.size
    assert len(parts) == (1 if part_texts == 1000 else -(-7 // part_texts))


def test_parts_are_bounded_in_bytes(tmp_path, monkeypatch):
    """Long texts make parts of fewer; a line over the limit is passed over without being held."""
    monkeypatch.setattr(cutting, "PART_BYTES", 100)
    monkeypatch.setattr(cutting, "PIECE_BYTES", 16)
    (tmp_path / "x.jsonl").write_text(lines_of(["a" * 60, "b" * 60, "c" * 5000]))
    (file,), _ = find(str(tmp_path / "x.jsonl"), None)
    parts = cut_file(file, 1000).parts
    assert [part.line for part in parts] == [0, 1, 2]
    records, bad, _ = read_part(file.url, parts[2], replace(FORM, max_line_bytes=1000))
    assert (records, [one.line for one in bad]) == ([], [3])


def test_a_file_that_changes_under_way_is_noticed(tmp_path):
    """Before a vector is made of it."""
    path = tmp_path / "x.jsonl"
    path.write_text(lines_of(["a", "b"]))
    (file,), _ = find(str(path), None)
    (part,) = cut_file(file, 10).parts
    path.write_text(lines_of(["a", "c"]))
    with pytest.raises(InputChanged, match="has changed"):
        read_part(file.url, part, FORM)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xff\xfe", "UTF-8"), (b"PAR1", "parquet")],
)
def test_what_cannot_be_read_in_parts_is_refused(tmp_path, head, complaint):
    """With the file's name and a remedy."""
    (tmp_path / "x.jsonl").write_bytes(head + b"rest\n")
    (file,), _ = find(str(tmp_path), None)
    with pytest.raises(SourceError, match=complaint):
        cut_file(file, 10)


def test_a_folder_is_read_by_suffix(tmp_path):
    """JSON Lines and Parquet; what starts with _ or . is not looked at, other formats are named."""
    for name in ("b.jsonl", "sub/a.parquet", "note.txt", "_SUCCESS", ".x.jsonl", "_old/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files, left_out = find(str(tmp_path), None)
    assert [(file.name, file.format) for file in files] == [
        ("b.jsonl", Format.JSONL),
        ("sub/a.parquet", Format.PARQUET),
    ]
    assert left_out == ["note.txt"]
    assert [file.name for file in find(str(tmp_path / "*.jsonl"), None)[0]] == ["b.jsonl"]
    with pytest.raises(SourceError, match="no such file"):
        find(str(tmp_path / "nowhere"), None)


# --- an ingestion


@pytest.mark.parametrize("out_format", list(OutFormat))
def test_vectors_of_files_of_both_formats(served, tmp_path, out_format):
    """Each row has its id, file and line; bad lines are set aside; the model is in the file."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jsonl").write_text(lines_of([f"a{i}" for i in range(6)]) + "no JSON\n")
    table = pa.table({"id": list(range(9)), "text": [f"b{i}" for i in range(9)]})
    pq.write_table(table, source / "b.parquet", row_group_size=5)
    plan = ingest(an_ingestion(source, out, through(served), out_format=out_format), Here(), Quiet())
    assert plan.complete
    if out_format is OutFormat.PARQUET:
        rows = rows_of(out)
        metadata = pq.read_schema(out / "part-000000.parquet").metadata
        assert (metadata[b"dejavec.model"], metadata[b"dejavec.fingerprint"]) == (b"stand-in", b"f1")
    else:
        rows = json_rows(out.glob("*.jsonl"))
    assert [(row["file"], row["line"], str(row["id"])) for row in rows] == [
        *(("a.jsonl", i + 1, f"id a{i}") for i in range(6)),
        *(("b.parquet", i + 1, str(i)) for i in range(9)),
    ]
    texts = [f"a{i}" for i in range(6)] + [f"b{i}" for i in range(9)]
    for row, text in zip(rows, texts, strict=True):
        assert np.array_equal(np.array(row["vector"], np.float32), vector_of(text, 8))
    (bad,) = json_rows((out / "_dejavec").glob("*.bad.jsonl"))
    assert (bad["file"], bad["line"]) == ("a.jsonl", 7)


def test_an_url_of_fsspec(served):
    """The same on a file system that is none of this machine's."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/in/a.jsonl", lines_of(["a", "b", "c", "d", "e"]).encode())
    try:
        job = an_ingestion("memory://in", "memory://out", through(served))
        ingest(job, Here(), Quiet())
        again = Here()
        ingest(job, again, Quiet())
        assert again.done == []
        names = [name for name in memory.find("/out") if name.endswith(".parquet")]
        rows = [row for name in names for row in pq.read_table(memory.open(name)).to_pylist()]
        assert [row["id"] for row in rows] == [f"id {text}" for text in "abcde"]
    finally:
        memory.rm("/", recursive=True)


def test_what_is_done_is_not_done_again(served, tmp_path):
    """After an end in the middle: the rest alone; the output is that of a run in one piece."""
    (tmp_path / "a.jsonl").write_text(lines_of([f"t{i}" for i in range(18)]))
    job = an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", through(served))
    with pytest.raises(KeyboardInterrupt):
        ingest(job, Here(stop_after=2), Quiet())
    assert not json.loads((tmp_path / "out/_dejavec/plan.json").read_text())["complete"]
    asked = len(served.requests)
    second = Here()
    assert ingest(job, second, Quiet()).complete
    assert (second.done, second.cut) == ([2, 3, 4], [])
    assert {text for request in served.requests[asked:] for text in request["input"]} == {f"t{i}" for i in range(8, 18)}
    ingest(replace(job, out=str(tmp_path / "whole")), Here(), Quiet())
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["torn record", "no record", "short file", "no file", "another plan's record"])
def test_a_part_without_a_whole_record_is_done_again(served, tmp_path, damage):
    """Whatever a kill, a full disk or a person left of it; and that part alone."""
    (tmp_path / "a.jsonl").write_text(lines_of([f"t{i}" for i in range(12)]))
    out = tmp_path / "out"
    job = an_ingestion(tmp_path / "a.jsonl", out, through(served))
    ingest(job, Here(), Quiet())
    before = rows_of(out)
    record, vectors = out / "_dejavec/part-000001.json", out / "part-000001.parquet"
    if damage == "torn record":
        record.write_bytes(record.read_bytes()[:20])
    elif damage == "no record":
        record.unlink()
    elif damage == "short file":
        vectors.write_bytes(vectors.read_bytes()[:-5])
    elif damage == "no file":
        vectors.unlink()
    else:
        record.write_text(record.read_text().replace('"origin":"', '"origin":"0'))
    again = Here()
    ingest(job, again, Quiet())
    assert again.done == [1]
    assert rows_of(out) == before


def test_new_files_are_added(served, tmp_path):
    """Behind the parts there are, which keep their numbers; a file that was only touched is read, not done again."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "m.jsonl").write_text(lines_of(["m1", "m2"]))
    job = an_ingestion(source, tmp_path / "out", through(served))
    ingest(job, Here(), Quiet())
    (source / "a.jsonl").write_text(lines_of(["a1"]))
    os.utime(source / "m.jsonl", (1, 1))
    again = Here()
    ingest(job, again, Quiet())
    assert (again.done, sorted(again.cut)) == ([1], ["a.jsonl", "m.jsonl"])
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["id a1", "id m1", "id m2"]
    third = Here()
    ingest(job, third, Quiet())
    assert (third.done, third.cut) == ([], [])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda path, job: path.write_text(lines_of(["x1", "t2"])), "a.jsonl has changed"),
        (lambda path, job: path.write_text(lines_of(["t1", "t2", "t3"])), "a file of its own"),
        (lambda path, job: path.rename(path.with_name("b.jsonl")), "a.jsonl is gone"),
        (
            lambda path, job: replace(job, embed=EmbedOptions(prompt_name="query")),
            "prompt_name is query now and was not given",
        ),
        (lambda path, job: replace(job, part_texts=5), "part_texts is 5 now and was 4"),
        (lambda path, job: replace(job, form=replace(FORM, text_field="body")), "text_field is body now"),
        (lambda path, job: replace(job, out_format=OutFormat.JSONL), "output is jsonl now"),
    ],
    ids=["content", "growth", "name", "prompt", "size of parts", "field", "format"],
)
def test_another_input_or_other_options_are_refused(served, tmp_path, change, complaint):
    """By name, with the output as it was; --start-over replaces it."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jsonl").write_text(lines_of(["t1", "t2"]))
    job = an_ingestion(source, out, through(served))
    ingest(job, Here(), Quiet())
    before = rows_of(out)
    changed = change(source / "a.jsonl", job)
    changed = changed if isinstance(changed, Ingestion) else job
    os.utime(next(source.iterdir()), (1, 1))
    with pytest.raises(CannotResume, match=complaint):
        ingest(changed, Here(), Quiet())
    assert rows_of(out) == before
    if changed is job:
        (out / "mine.txt").write_text("not ours")
        ingest(replace(changed, start_over=True), Here(), Quiet())
        assert (out / "mine.txt").exists()


def test_an_output_without_vectors_binds_nobody(served, tmp_path):
    """Other options, or a mended file, begin anew where no line was usable before."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"body": "t1"}\n{"body": "t2"}\n')
    job = an_ingestion(source, tmp_path / "out", through(served))
    ingest(job, Here(), Quiet())
    ingest(replace(job, form=replace(FORM, text_field="body")), Here(), Quiet())
    assert len(rows_of(tmp_path / "out")) == 2
    with pytest.raises(CannotResume, match="text_field is text now"):
        ingest(job, Here(), Quiet())
    assert len(rows_of(tmp_path / "out")) == 2


def test_a_refused_key_is_named_by_its_setting(tmp_path):
    """It is the command that knows where a key comes from."""
    (tmp_path / "a.jsonl").write_text(lines_of(["t"]))
    with gateway() as stand_in:
        stand_in.misdeeds.append(status(401))
        with pytest.raises(Stopped, match="no key was sent: set client_api_key") as stopped:
            ingest(an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", through(stand_in)), Here(), Quiet())
    assert stopped.value.why is Why.REFUSED


def test_another_model_is_refused(tmp_path):
    """Before it starts, and while it works: vectors of two models never meet in one output."""
    (tmp_path / "a.jsonl").write_text(lines_of([f"t{i}" for i in range(12)]))
    with gateway(fingerprint="f1") as stand_in:
        job = an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", through(stand_in))

        class Swapped(Here):
            def do_all(self, parts, job):
                for outcome in super().do_all(parts, job):
                    stand_in.fingerprint = "f2"
                    yield outcome

        with pytest.raises(Stopped) as stopped:
            ingest(job, Swapped(), Quiet())
        assert stopped.value.why is Why.CANNOT_RESUME
        with pytest.raises(CannotResume, match="the model's fingerprint is f2"):
            ingest(job, Here(), Quiet())
    assert len(rows_of(tmp_path / "out")) == 4


def test_what_a_gateway_does_not_answer_is_not_done(tmp_path):
    """Its kind is in the outcome, and the part has no record."""
    (tmp_path / "a.jsonl").write_text(lines_of(["t"]))
    with gateway() as stand_in:
        job = an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", replace(through(stand_in), patience_s=0.3))
        stand_in.vectors_short_by = 1
        with pytest.raises(Stopped, match="not an embeddings answer") as stopped:
            ingest(job, Here(), Quiet())
    assert stopped.value.why in (Why.REFUSED, Why.NO_ANSWER)
    assert not list((tmp_path / "out").glob("part-*"))


def test_two_at_once_are_refused(served, tmp_path):
    """The second one, as long as the first one works."""
    (tmp_path / "a.jsonl").write_text(lines_of(["t"]))
    job = an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", through(served))

    class Nested(Here):
        def do_all(self, parts, _):
            with pytest.raises(Occupied, match="another ingestion"):
                ingest(job, Here(), Quiet())
            return super().do_all(parts, _)

    ingest(job, Nested(), Quiet())


def test_an_output_in_the_source_is_refused(served, tmp_path):
    """It would be the next run's input."""
    (tmp_path / "a.jsonl").write_text(lines_of(["t"]))
    with pytest.raises(SourceError, match="--out lies in SOURCE"):
        ingest(an_ingestion(tmp_path, tmp_path / "out", through(served)), Here(), Quiet())


# --- in process


def test_vectors_in_process_are_the_engines(tmp_path):
    """To the byte those of an engine with the same bundle, whose fingerprint is recorded; also shortened."""
    from engine.serving import build_engine
    from engine.settings import EngineSettings

    bundle = write_tiny_bundle(tmp_path / "bundle")
    texts = [" ".join("abcdefghijklmnopqrstuvwxyz"[i : i + 1 + i % 9]) for i in range(20)]
    (tmp_path / "a.jsonl").write_text(lines_of(texts))

    async def computed() -> tuple[str, np.ndarray]:
        async with build_engine(EngineSettings(model_bundle=bundle)).opened() as engine:
            ids = await engine.tokenize(texts)
            return engine.info.fingerprint, np.stack([(await engine.batcher.submit([row]))[0] for row in ids])

    fingerprint, expected = asyncio.run(computed())
    way = BundleWay(str(bundle), cpus=1, batch=6)
    ingest(an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", way), Here(), Quiet())
    found = np.array([row["vector"] for row in rows_of(tmp_path / "out")], np.float32)
    assert found.tobytes() == expected.tobytes()
    assert pq.read_schema(tmp_path / "out/part-000000.parquet").metadata[b"dejavec.fingerprint"].decode() == fingerprint
    short = an_ingestion(tmp_path / "a.jsonl", tmp_path / "short", way, embed=EmbedOptions(dimensions=4))
    ingest(short, Here(), Quiet())
    assert len(rows_of(tmp_path / "short")[0]["vector"]) == 4


@pytest.mark.parametrize(("cpus", "batch"), [(1, 2048), (64, 64)])
def test_a_part_of_the_longest_texts_fits_the_engines_queue(tmp_path, cpus, batch):
    """However many texts a batch has, and however many cores there are to keep busy."""
    bundle = write_tiny_bundle(tmp_path / "bundle")
    (tmp_path / "a.jsonl").write_text(lines_of([f"{number} " + "a " * 40 for number in range(8192)]))
    way = BundleWay(str(bundle), cpus=cpus, batch=batch)
    ingest(an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", way, part_texts=8192), Here(), Quiet())
    assert len(rows_of(tmp_path / "out")) == 8192


def test_a_node_with_another_bundle_does_nothing(tmp_path):
    """Its part fails with both fingerprints, and nothing is written."""
    bundle, other = write_tiny_bundle(tmp_path / "bundle"), write_tiny_bundle(tmp_path / "other", max_tokens=8)
    (tmp_path / "a.jsonl").write_text(lines_of(["a"]))

    class Elsewhere(Here):
        def do_all(self, parts, job):
            return super().do_all(parts, replace(job, way=BundleWay(str(other))))

    with pytest.raises(Stopped, match="give every node the same bundle") as stopped:
        ingest(an_ingestion(tmp_path / "a.jsonl", tmp_path / "out", BundleWay(str(bundle))), Elsewhere(), Quiet())
    assert stopped.value.why is Why.CANNOT_RESUME
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_failure_can_go_from_one_process_to_another():
    """It is what an actor gives back."""
    import pickle

    failed = Failed(Why.REFUSED, "no")
    assert pickle.loads(pickle.dumps(failed)) == failed
    assert "secret-of-these-tests" not in repr(GatewayWay("http://g", None, "secret-of-these-tests"))


# --- the command


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--bundle", "b"], "--bundle goes with --engine ray alone"),
        (["--actors", "2"], "--actors goes with --engine ray alone"),
        (["--part-texts", "2"], "--part-texts goes with --engine ray alone"),
        (["--engine", "ray", "--bundle", "b", "--url", "http://g"], "--url goes through a gateway"),
        (["--engine", "ray", "--bundle", "b", "--patience", "1"], "--patience goes through a gateway"),
        (["--engine", "ray", "--bundle", "b", "--min-fidelity", "1"], "--min-fidelity goes through a gateway"),
        (["--engine", "dask"], "'dask' is not one of"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, words, complaint):
    """By name, with exit status 2, and before anything is done."""
    source = tmp_path / "a.jsonl"
    source.write_text("")
    result = CliRunner().invoke(command, [str(source), "--out", str(tmp_path / "v.npy"), *words])
    assert result.exit_code == 2
    assert complaint in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_without_an_engine_it_is_the_ingestion_of_one_file(tmp_path):
    """With the same refusals."""
    result = CliRunner().invoke(command, [str(tmp_path / "nowhere"), "--out", "v.npy"])
    assert (result.exit_code, "does not exist" in result.output) == (2, True)
    (tmp_path / "a.jsonl").write_text("")
    result = CliRunner().invoke(command, [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "v.txt")])
    assert result.exit_code == 2
    assert ".npy" in result.output
