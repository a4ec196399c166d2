"""The whole command on a tiny model: figures, report, verdict, exit status."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from engine.build import build_bundle
from engine.build.cli import model as model_command
from engine.build.verify import speed as verify_speed
from engine.build.verify.quality import check_batches, choose_texts, compare_with
from engine.bundle import read_bundle
from engine.model import quality_bar
from engine.model.quality_bar import read_verification
from engine.protocol import Float32Array, Int32Array
from tests.cpus.products import integer_weights
from tests.tiny_bert import ragged, write_checkpoint

WORDS = "w1 w2 w3 w4 w5 w6 w7 w8 w9".split()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """Its INT8 bundle, kept whatever its quality: a random model is harder on INT8 than a trained one."""
    build_bundle(str(source), tmp_path / "tiny-int8", precision="int8", force=True)
    return tmp_path / "tiny-int8"


@pytest.fixture
def low_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars that a random model clears."""
    monkeypatch.setattr(quality_bar, "LOWEST_MEAN_COSINE", 0.9)
    monkeypatch.setattr(quality_bar, "LOWEST_COSINE", 0.8)
    monkeypatch.setattr(quality_bar, "LARGEST_LOSS_POINTS", 100.0)


def verify(*arguments: str | Path) -> Result:
    """Run `model verify`, without timing unless it is asked for."""
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(model_command, ["verify", *given, *([] if "--speed" in given else ["--no-speed"])])


def write_texts(path: Path) -> Path:
    """Forty texts of one to nine words."""
    path.write_text("\n".join(" ".join(WORDS[: 1 + n % 9]) for n in range(40)))
    return path


def write_tasks(folder: Path) -> tuple[Path, Path]:
    """Sentence pairs and a collection in the model's language."""
    folder.mkdir()
    rows = [f"{n}\t{WORDS[n]} w20\t{WORDS[n + 1]} w21\n" for n in range(8)]
    (folder / "dev.tsv").write_text("score\tsentence1\tsentence2\n" + "".join(rows))
    documents = [json.dumps({"_id": word, "title": word, "text": "w30 w31"}) for word in WORDS]
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    (folder / "queries.tsv").write_text("query_id\ttext\n" + "".join(f"q{w}\t{w}\n" for w in WORDS))
    (folder / "qrels.tsv").write_text("query_id\tdoc_id\trelevance\n" + "".join(f"q{w}\t{w}\t1\n" for w in WORDS))
    return folder / "dev.tsv", folder


@pytest.mark.usefixtures("low_bars")
def test_a_report_has_everything_and_the_verdict_is_kept(source: Path, folder: Path, tmp_path: Path) -> None:
    """Quality, tasks beside FP32, cost; as JSON too; and the engine finds the verdict."""
    pairs, collection = write_tasks(tmp_path / "data")
    texts, out = write_texts(tmp_path / "texts.txt"), tmp_path / "report.json"
    result = verify(
        folder, "--checkpoint", source, "--texts", texts, "--sts", pairs, "--retrieval", collection, "--json", out
    )
    assert result.exit_code == 0, result.output
    for expected in ("kernel class", "cosine to FP32, mean", "STS data/dev.tsv", "nDCG@10", "on disk", "PASSES"):
        assert expected in result.output
    report = json.loads(out.read_bytes())
    assert (report["verdict"], report["shortfalls"], report["cosine"]["texts"]) == ("PASSES", [], 40)
    assert report["batches"]["changed"] == 0
    assert [set(task["points"]) for task in report["tasks"]] == [{"int8", "fp32"}] * 2
    kept = read_verification(folder, read_bundle(folder), report["kernel_class"])
    assert kept is not None
    assert kept.shortfalls == []
    assert kept.quality["cosine_texts"] == 40


def test_the_same_command_says_the_same(source: Path, folder: Path, tmp_path: Path) -> None:
    """To the last digit, times aside."""
    pairs, collection = write_tasks(tmp_path / "data")
    reports = []
    for name in ("a", "b"):
        verify(
            folder, "--checkpoint", source, "--sts", pairs, "--retrieval", collection, "--no-keep",
            "--json", tmp_path / name,
        )  # fmt: skip
        reports.append((tmp_path / name).read_bytes())
    assert reports[0] == reports[1]
    assert not list(folder.glob("verified-*"))


def test_under_the_bar_the_exit_status_is_1(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the report names what is, and the verdict is kept for the engine."""
    monkeypatch.setattr(quality_bar, "LOWEST_MEAN_COSINE", 1.1)
    result = verify(folder, "--checkpoint", source)
    assert result.exit_code == 1
    assert "the bar is 1.1" in result.output
    assert "UNDER THE BAR" in result.output
    (kept,) = folder.glob("verified-*")
    assert "the bar is 1.1" in kept.read_text()


def test_without_a_checkpoint_nothing_is_decided(folder: Path) -> None:
    """It is said how to name one; what needs no FP32 is measured, and no verdict is kept."""
    result = verify(folder)
    assert result.exit_code == 0
    assert "name it with --checkpoint" in " ".join(result.output.split())
    assert "NOT DECIDED" in result.output
    assert not list(folder.glob("verified-*"))


def test_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    """A comparison with other weights would say nothing."""
    write_checkpoint(tmp_path / "other", hidden_size=64)
    result = verify(folder, "--checkpoint", tmp_path / "other")
    assert result.exit_code == 2
    assert "has other weights" in result.output


def test_an_fp32_bundle_passes(source: Path, tmp_path: Path) -> None:
    """There is nothing to compare it with, and it needs no verdict."""
    build_bundle(str(source), tmp_path / "fp32", precision="fp32")
    result = verify(tmp_path / "fp32")
    assert result.exit_code == 0
    assert "PASSES" in result.output
    assert not list((tmp_path / "fp32").glob("verified-*"))


@pytest.mark.usefixtures("low_bars")
def test_cost_is_measured(source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of a fresh process, tokens/s of both graphs."""
    monkeypatch.setattr(verify_speed, "ROUND_S", 0.0)
    result = verify(folder, "--checkpoint", source, "--speed", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_bytes())
    assert report["memory"]["resident_bytes"] > report["memory"]["before_bytes"] > 1e6
    assert [(entry["batch"], entry["tokens"]) for entry in report["speed"]] == [(1, 16), (8, 16), (32, 16)]
    assert set(report["speed"][0]["tokens_per_s"]) == {"int8", "fp32"}
    assert 0 <= report["padding_share"] < 0.1


def test_the_integer_products_of_a_graph_are_counted(folder: Path) -> None:
    """Two layers: query, key and value in two products, output, up and down less the neurons kept in FP32."""
    found = Counter(weight.shape for weight in integer_weights(onnx.load(folder / "model.onnx")))
    assert found == {(32, 32): 4, (32, 64): 2, (32, 48): 2, (48, 32): 2}


def test_faults_are_told_in_one_line(tmp_path: Path, folder: Path) -> None:
    """No bundle, no such data: exit status 2 and no trace."""
    for arguments in ([tmp_path / "none"], [folder, "--sts", tmp_path / "x.tsv"], [folder, "--texts", tmp_path / "x"]):
        result = verify(*arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output


def test_texts_that_calibrated_the_bundle_do_not_measure_it(source: Path, tmp_path: Path) -> None:
    """Of the calibration file only the part that was kept back; of any other file all."""
    texts = write_texts(tmp_path / "texts.txt")
    bundle = build_bundle(str(source), tmp_path / "b", precision="int8", calibration_file=texts, force=True)
    found, origin = choose_texts(bundle, texts)
    assert len(found) == 10
    assert "hold-out" in origin
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text() + "\nw1")
    assert len(choose_texts(bundle, other)[0]) == 41
    other.write_text("w1\nw2")
    assert choose_texts(bundle, other)[0] == ["w1", "w2"]


def test_cosines_are_told_apart_by_length() -> None:
    """The lowest belongs to the text of two tokens; from eight on all is well."""
    texts = ragged([2, 8, 9])

    def reference(given: Sequence[Int32Array]) -> Float32Array:
        return np.array([[1, 0] for _ in given], np.float32)

    def run(given: Sequence[Int32Array]) -> Float32Array:
        return np.array([[1, 1] if len(text) == 2 else [1, 0] for text in given], np.float32)

    report = compare_with(reference, run, texts)
    assert report.least_tokens == 2
    assert report.min == pytest.approx(0.707107, abs=1e-6)
    assert (report.mean_long, report.min_long) == (pytest.approx(1), pytest.approx(1))


def test_a_vector_that_knows_its_company_is_found() -> None:
    """One bit, in batches of three and more, in texts of five tokens."""

    def run(texts: Sequence[Int32Array]) -> Float32Array:
        vectors = np.array([[len(text)] for text in texts], np.float32)
        if len(texts) >= 3:
            vectors[vectors == 5] = np.nextafter(np.float32(5), np.float32(6))
        return vectors

    report = check_batches(run, ragged([5, 3, 5, 7] * 4), max_tokens=24, vocab_size=100)
    assert report.changed_lengths == [5]
    assert report.changed >= 8
    clean = check_batches(lambda texts: np.array([[len(t)] for t in texts], np.float32), ragged([5, 3]), 24, 100)
    assert clean.changed == 0
