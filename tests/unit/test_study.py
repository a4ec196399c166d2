"""`dejavec study`: honest figures of backends with known speed and vectors; texts; what is lost is said first."""

import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtest.bench.machine import describe
from loadtest.bench.processes import BenchmarkError
from loadtest.figures import Latencies
from loadtest.study import cached, measure, tables
from loadtest.study.candidates import INSTALL, KNOWN, Candidate, LeftOut, StudyError, chosen
from loadtest.study.cli import study as command
from loadtest.study.display import markdown, show
from loadtest.study.figures import Accuracy, Cached, ChunkRun, Measured, Rate, Study, accuracy, references, verdict
from loadtest.study.process import Failed, Worker, options_for
from loadtest.study.sources import calibration_texts, distinct_texts, make_chunks, with_repeats

STUB = '''
"""Vectors of a fixed form; each text takes {seconds} s of a clock of its own, a batch {fixed} s more."""
import numpy as np

PACKAGES = ("numpy", "not-there")

class Stub:
    def __init__(self, options):
        self.files, self.used_s = [options["folder"] + "/model.bin"], 0.0

    def clock(self):
        return self.used_s

    def encode(self, texts):
        print("libraries print what they like")
        self.used_s += {fixed} + {seconds} * len(texts)
        rows = [[len(text), text.count("e") + 1, {turn}, {batch} * (len(texts) > 1)] for text in texts]
        rows = np.array(rows, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

def prepare(options):
    with open(options["folder"] + "/model.bin", "wb") as file:
        file.write(bytes({size}))

def load(options):
    return Stub(options)
'''
TEXTS = [f"some text, number {number}" * (1 + number % 3) for number in range(40)]


def backend(folder: Path, name: str, **known: float) -> Path:
    """A backend's file with known figures."""
    values: dict[str, float] = {"seconds": 0.01, "fixed": 0.0, "turn": 0.0, "batch": 0.0, "size": 1000}
    file = folder / f"{name}.py"
    file.write_text(STUB.format(**(values | known)), encoding="utf-8")
    return file


def bundle(folder: Path) -> Path:
    """As much of a bundle as the study reads."""
    (folder / "bundle.json").write_bytes(orjson.dumps({"max_tokens": 64}))
    return folder


def candidate(file: Path, key: str, group: Any = "peer") -> Candidate:
    return Candidate(key, f"the {key}", group, file, sys.executable)


def run(tmp_path: Path, candidates: Sequence[Candidate], chunks: int = 0) -> measure.Outcome:
    plan = measure.Plan(TEXTS, (1, 8, 32), 16, 3, make_chunks(TEXTS, chunks))
    return measure.run(
        candidates, plan, core=None, bundle=bundle(tmp_path), checkpoint=tmp_path, folder=tmp_path / "kept",
        calibration=["one"], console=Console(file=io.StringIO()),
    )  # fmt: skip


def measured(key: str, rate: float, group: Any = "peer", mean: float | None = 0.99, **changed: Any) -> Measured:
    """Figures of a candidate that computes `rate` texts a second."""
    made = Measured(
        key, f"the {key}", group, False, {}, 10_000_000, 200_000_000, 1.0,
        {1: Rate(rate, rate), 32: Rate(2 * rate, 2 * rate)}, Latencies(10, 1.0, 2.0, 3.0, 4.0),
        Accuracy(mean, mean, 0.0, 0.0),
    )  # fmt: skip
    return replace(made, **changed)


def a_study(*those: Measured, **changed: Any) -> Study:
    machine = replace(describe(0, 1, "none"), cpu="a CPU", cores=4, int8_dot_products=False, load_before=0.1)
    return replace(Study("now", machine, "texts", 40, 20.0, 3, "torch", those), **changed)


def whole_study(name: str) -> Study:
    """Every part of a page: all groups, two that were faster, chunks, a cache, a busy machine, one left out."""
    chunks = ChunkRun(1000, 10.0, 11.0, Latencies(32, 10.0, 20.0, 30.0, 40.0), 250_000_000)
    those = [
        measured("torch", 40, "usual", None, name="PyTorch FP32"),
        measured("onnx-int8", 90, "usual", 0.98, name="ONNX Runtime dynamic INT8"),
        measured("engine", 100, "ours", 0.9996, name="dejavec engine, in process", chunks=chunks),
        measured("http-32", 80, "ours", 0.9996, name="dejavec over HTTP, 32 connections", over_http=True),
        measured("quick", 150, "peer", 0.9, name=name, packages={name: name}),
        measured("openvino-int8", 140, "peer", 0.99, name="OpenVINO static INT8 (NNCF)", chunks=chunks),
    ]
    study = a_study(
        *those,
        left_out=[LeftOut(name, name)],
        cached=Cached(100, 0.68, 200.0, 500.0, 20.0, 10.0, 16),
        machine_usd_per_hour=0.1,
    )
    return replace(study, texts=name, machine=replace(study.machine, load_before=7.0))


def test_known_figures_are_measured(tmp_path: Path) -> None:
    """Rates, percentiles, size, accuracy and chunks of stubs are what the stubs are made to have."""
    slow = candidate(backend(tmp_path, "slow", seconds=0.01, fixed=0.03, size=4000), "torch", "usual")
    fast = candidate(backend(tmp_path, "fast", seconds=0.005, turn=4.0, size=500), "fast")
    wrong = candidate(backend(tmp_path, "wrong", batch=1.0), "wrong")
    outcome = run(tmp_path, [slow, fast, wrong], chunks=64)
    found = {one.key: one for one in outcome.measured}
    assert outcome.left_out == []
    assert outcome.baseline == "torch"
    assert found["torch"].rates[1] == Rate(pytest.approx(25), pytest.approx(25))
    assert found["torch"].rates[32].median == pytest.approx(32 / 0.35)
    assert found["fast"].rates[8].best == pytest.approx(200)
    assert found["torch"].latency.p99_ms == pytest.approx(40)
    assert found["torch"].latency.count == 3 * 16
    assert (found["torch"].size_bytes, found["fast"].size_bytes) == (4000, 500)
    assert found["torch"].resident_bytes > 5_000_000
    assert list(found["torch"].packages) == ["numpy"]
    assert found["torch"].accuracy == Accuracy(None, None, 0.0, 0.0)
    assert found["fast"].accuracy.batch_dependent == 0
    alone = np.array([[len(text), text.count("e") + 1, 0] for text in TEXTS], dtype=float)
    turned = alone + np.array([0, 0, 4])
    cosines = (alone * turned).sum(1) / np.linalg.norm(alone, axis=1) / np.linalg.norm(turned, axis=1)
    assert found["fast"].accuracy.mean == pytest.approx(cosines.mean())
    assert found["fast"].accuracy.lowest == pytest.approx(cosines.min())
    assert found["wrong"].accuracy.batch_dependent == 1
    assert found["wrong"].accuracy.largest_difference > 0
    chunks = found["torch"].chunks
    assert chunks is not None
    assert (chunks.count, chunks.used_s, chunks.batches.p50_ms) == (64, pytest.approx(0.7), pytest.approx(350))
    assert chunks.seconds_for_all == pytest.approx(0.7 / 64 * 10_000)


def test_cpu_time_is_the_default_clock(tmp_path: Path) -> None:
    """A backend without a clock is timed by its own CPU time and its children's: sleeping costs nothing."""
    file = tmp_path / "burns.py"
    file.write_text(
        "import subprocess, sys, time\n"
        "import numpy as np\n"
        "BURN = 'import time\\nwhile time.process_time() < 0.6: pass\\ninput()'\n"
        "class Burns:\n"
        "    files = []\n"
        "    def encode(self, texts):\n"
        "        if texts[0] == 'sleep': time.sleep(0.3)\n"
        "        if texts[0] == 'child':\n"
        "            self.child = subprocess.Popen([sys.executable, '-c', BURN], stdin=subprocess.PIPE)\n"
        "            time.sleep(0.05)\n"
        "            from worker import cpu_seconds\n"
        "            end = time.monotonic() + 60\n"
        "            while cpu_seconds() - time.process_time() < 0.4 and time.monotonic() < end: time.sleep(0.05)\n"
        "        return np.ones((len(texts), 1), np.float32)\n"
        "    def close(self):\n"
        "        self.child.communicate(b'x')\n"
        "def load(options): return Burns()\n",
        encoding="utf-8",
    )
    one = candidate(file, "burns")
    options = options_for(one, bundle=bundle(tmp_path), checkpoint=tmp_path, folder=tmp_path, calibration=[])
    with Worker(one, options, None) as worker:
        slept = worker.time(["sleep"], 1)
        assert slept["wall_s"][0] >= 0.3
        assert slept["used_s"][0] < 0.2
        assert worker.time(["child"], 1)["used_s"][0] >= 0.4


def test_a_candidate_that_fails_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """While it loads, and while it is measured; the others' figures stand."""
    absent = tmp_path / "absent.py"
    absent.write_text("import not_there_at_all\n", encoding="utf-8")
    ends = tmp_path / "ends.py"
    ends.write_text("def load(options):\n    class C: files = []\n    return C()\n", encoding="utf-8")
    good = candidate(backend(tmp_path, "good"), "good")
    outcome = run(tmp_path, [candidate(absent, "absent"), candidate(ends, "ends"), good])
    assert [one.key for one in outcome.measured] == ["good"]
    reasons = {one.name: one.reason for one in outcome.left_out}
    assert "No module named 'not_there_at_all'" in reasons["the absent"]
    assert "has no attribute 'encode'" in reasons["the ends"]
    assert outcome.baseline is None
    assert outcome.measured[0].accuracy.mean is None


def test_a_candidate_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time."""
    file = tmp_path / "hangs.py"
    file.write_text("import time\ndef load(options): time.sleep(600)\n", encoding="utf-8")
    monkeypatch.setattr("loadtest.study.process.START_S", 1.0)
    one = candidate(file, "hangs")
    options = options_for(one, bundle=bundle(tmp_path), checkpoint=tmp_path, folder=tmp_path, calibration=[])
    with pytest.raises(Failed):
        Worker(one, options, None)


def test_what_is_lost_is_said_first() -> None:
    """With how much, and both sides' accuracy; in process against in process alone."""
    ours = measured("engine", 100, "ours", 0.9996)
    lost = a_study(measured("torch", 50, "usual", None), measured("quick", 150, mean=0.97), ours)
    truth = "at cosine 0.9700 against 0.9996 (lowest 0.9700 against 0.9996)"
    assert sorted(verdict(lost)) == [
        f"Lost: the quick is 1.50 x as fast at batches of 32, {truth}",
        f"Lost: the quick is 1.50 x as fast at single texts, {truth}",
    ]
    assert markdown(lost).startswith("Lost: the quick")
    output = io.StringIO()
    show(lost, Console(file=output, width=200))
    assert output.getvalue().startswith("Lost: the quick is 1.50 x as fast")
    worst = verdict(a_study(measured("quick", 150), measured("quicker", 300), ours))[0]
    assert worst.startswith("Lost: the quicker is 3.00 x")
    won = a_study(measured("torch", 50, "usual", None), measured("served", 900, over_http=True), ours)
    assert verdict(won) == ["None of these was faster at any batch size: the torch, the served."]
    assert verdict(a_study(ours)) == ["Nothing was measured beside this engine."]


def test_reference_figures_say_where_they_are_not_reached() -> None:
    """And why; what was not measured is not reached by silence."""
    latencies = Latencies(10, 1.0, 2.0, 3.0, 4.0)
    engine = measured("engine", 100, "ours", 0.999, size_bytes=2_600_000)
    engine = replace(engine, chunks=ChunkRun(1000, 10.0, 11.0, latencies, 250_000_000))
    with_cache = Cached(100, 0.68, 200.0, 500.0, 20.0, 10.0, 16)
    found = {
        one.what: one for one in references(a_study(measured("torch", 25, "usual", None), engine, cached=with_cache))
    }
    speed = found["FP32 singles, to INT8 in batches"]
    assert (speed.here, speed.reached) == ("25 to 200/s (8.0 x)", False)
    assert found["INT8 on disk"].reached
    chunks = found["10,000 chunks"]
    assert chunks.here == "100.0 s of one core, extrapolated from 1,000"
    assert not chunks.reached
    assert "takes 5.0 such cores, and 4 are here" in chunks.why
    assert found["memory for that"].reached
    assert "with free hits it would be 3.1 x" in found["requests with a cache"].why
    assert found["cosine to FP32, mean"].reached
    assert next(references(a_study(engine))).reached is None


def test_costs_follow_from_the_price() -> None:
    """Per core and per thousand; without a price nothing is said."""
    one = measured("engine", 50, "ours")  # 100 texts/s at 32
    assert one.cost_per_1000(0.36) == pytest.approx(0.001)
    assert tables.speed_rows(a_study(one))[0][-1] == "-"
    assert tables.speed_rows(a_study(one, machine_usd_per_hour=1.44))[0][-1] == "0.001000"  # of four cores


def test_accuracy_is_by_row() -> None:
    """Means, the lowest, and the share of rows whose bytes differ."""
    alone = np.array([[1, 0], [0, 1]], dtype=np.float32)
    batched = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    found = accuracy(alone, batched, alone)
    assert (found.mean, found.lowest) == (pytest.approx(0.9), pytest.approx(0.8))
    assert (found.batch_dependent, found.largest_difference) == (0.5, pytest.approx(0.6))


def test_a_busy_machine_is_a_warning() -> None:
    """With the load; a quiet one has none."""
    assert a_study().machine.warning == ""
    assert replace(a_study().machine, load_before=3.5).warning.startswith("NOT QUIET: load 3.5")


def test_candidates_by_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is left out by name, with the command that installs it; peers are named with their Python."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, left_out = chosen([])
    assert [one.key for one in found] == ["engine", "http", "http-32"]
    reasons = {one.name: one.reason for one in left_out}
    assert reasons["PyTorch FP32"] == f"needs torch, transformers, sentence_transformers: {INSTALL}"
    assert "--peer openvino=PYTHON" in reasons["OpenVINO FP32"]
    mine = backend(tmp_path, "mine")
    found, _ = chosen([f"torch={sys.executable}", f"mine={sys.executable},{mine}"], ["http-32"])
    assert [one.key for one in found] == ["torch", "engine", "http", "mine"]
    assert found[-1].backend == mine
    for wrong in ("torch", "torch=/no/python", f"engine={sys.executable}", f"mine={sys.executable},/no/file.py"):
        with pytest.raises(StudyError, match=f"--peer {wrong.partition('=')[0]}"):
            chosen([wrong])
    with pytest.raises(StudyError, match="--leave-out nothing"):
        chosen([], ["nothing"])
    assert all((mine.parent / one.backend).is_file() for one in found)
    assert all(one.file for one in KNOWN.values())


def test_texts_are_seeded() -> None:
    """Chunks of 100 to 500 characters; repeats in the share asked for, each some new texts behind its first."""
    texts = distinct_texts(None, None, "text", 100)
    assert len(set(texts)) == 100
    assert not set(texts) & set(calibration_texts())
    chunks = make_chunks(texts, 300)
    assert chunks == make_chunks(texts, 300)
    assert all(100 <= len(chunk) <= 500 for chunk in chunks)
    assert len(set(chunks)) > 290
    assert all(100 <= len(chunk) <= 500 for chunk in make_chunks(["x" * 1000, " "], 50))
    stream = with_repeats(texts, 500, 0.68, apart=20)
    assert len(stream) == 500
    assert len(set(stream)) == 160
    fresh = list(dict.fromkeys(stream))
    for place, text in enumerate(stream):
        if text in stream[:place]:
            assert fresh.index(text) + 20 <= len(set(stream[:place]))


def test_the_command_writes_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a peer of the user's to table, JSON, page and Markdown; an expected fault is one line."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    files = {form: tmp_path / f"out.{form}" for form in ("json", "html", "markdown")}
    leave = [f"--leave-out={key}" for key in ("engine", "http", "http-32")]
    peers = [f"--peer={name}={sys.executable},{backend(tmp_path, name)}" for name in ("one", "two")]
    arguments = [
        *leave, *peers, "--rounds=1", "--chunks=8", "--cached=0", "--count=8", "--texts-a-round=4", "--sizes=4",
        f"--bundle={bundle(tmp_path)}", f"--checkpoint={tmp_path}", f"--folder={tmp_path / 'kept'}",
        "--machine-price=1", *(f"--{form}={file}" for form, file in files.items()),
    ]  # fmt: skip
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert "Left out" in done.output
    written = orjson.loads(files["json"].read_bytes())
    assert written["measured"][0]["rates"]["4"]["median"] == pytest.approx(100)
    assert written["machine"]["cores"] >= 1
    assert "<h1>" in files["html"].read_text(encoding="utf-8")
    assert files["markdown"].read_text(encoding="utf-8").startswith("Nothing was measured beside this engine.")
    monkeypatch.setattr(cached, "measure", refuses)
    done = CliRunner().invoke(command, [*arguments, "--cached=10"])
    assert done.exit_code == 0, done.output
    assert "no Redis server" in done.output
    for wrong, said in (("--sizes=0", "from 1 to 512"), ("--sizes=a", "give numbers"), ("--core=999", "999")):
        refused = CliRunner().invoke(command, [*arguments, wrong])
        assert refused.exit_code == 1
        assert said in refused.output
    assert "--peer openvino=" in CliRunner().invoke(command, ["--list-peers"]).output


def refuses(*_given: object) -> Cached:
    raise BenchmarkError("no Redis server")


def test_left_out_ones_are_in_every_table() -> None:
    """By name and reason."""
    text = markdown(a_study(measured("engine", 1, "ours"), left_out=[LeftOut("a | b", "not\nthere")]))
    assert "| a \\| b | not there |" in text
