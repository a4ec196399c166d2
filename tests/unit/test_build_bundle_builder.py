"""From a tiny checkpoint to a finished folder: contents, skipping, replacing, refusing."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from click.testing import CliRunner

from engine.build import BuildError, build_bundle, bundle_builder
from engine.build.bundle_folder import made_once
from engine.build.cli import model as model_command
from engine.build.errors import CheckpointError, QualityError, UnsupportedModel
from engine.build.graph import step as graph_step
from engine.build.quality import demand, lengths_to_check
from engine.build.running import open_graph
from engine.bundle import Bundle, BundleError, check_files, parse_tokenizer, read_bundle
from engine.feeds import feeds
from engine.model import cpu_session
from engine.model.check_vectors import CheckVectors, compare
from engine.model.session import open_model
from engine.model.topology import Topology
from tests.tiny_bert import ragged, write_checkpoint, write_json

ONE_CORE = Topology(cores=1, sessions=1, threads=1)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A tiny checkpoint's folder."""
    write_checkpoint(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the bundle goes."""
    return tmp_path / "models" / "tiny-int8"


def test_a_bundle_is_whole_and_says_what_it_is(source: str, out: Path) -> None:
    """Everything a server needs to know is in `bundle.json`, and its files are those it was made with."""
    bundle = build_bundle(source, out, precision="int8")
    assert read_bundle(out) == bundle
    check_files(out, bundle)
    assert (bundle.model, bundle.precision, bundle.dimensions, bundle.vocab_size) == ("tiny", "int8", 32, 100)
    assert (bundle.pooling, bundle.normalize, bundle.max_tokens) == ("mean", True, 24)
    assert bundle.quality["batch_dependent_texts"] == 0
    assert bundle.quality["cosine_mean"] > 0.995
    assert bundle.recipe["calibration"]["file"] == "built-in"
    assert {path.name for path in out.iterdir()} == {
        "bundle.json",
        "model.onnx",
        "tokenizer.json",
        "check_vectors.npz",
        "static_embedding.npz",
    }


def test_the_tokenizer_loses_its_padding_and_its_wrong_limit(source: str, out: Path) -> None:
    """The checkpoint's file cuts at 8 and pads to 8; the model takes 24."""
    build_bundle(source, out, precision="int8")
    content = json.loads((out / "tokenizer.json").read_text())
    assert content["padding"] is None
    assert content["truncation"]["max_length"] == 24
    tokenizer = parse_tokenizer((out / "tokenizer.json").read_bytes(), 24)
    assert len(tokenizer.encode("w1").ids) == 3
    assert len(tokenizer.encode("w1 " * 100).ids) == 24


def test_the_same_inputs_give_the_same_bytes(source: str, tmp_path: Path) -> None:
    """A second build elsewhere has the same fingerprint."""
    first, second = (
        build_bundle(source, tmp_path / "a", precision="int8"),
        build_bundle(source, tmp_path / "b", precision="int8"),
    )
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    assert first.fingerprint("int8-exact") == second.fingerprint("int8-exact")


def test_a_bundle_that_is_there_is_not_built_again(source: str, out: Path) -> None:
    """The same inputs: nothing is touched, and it is said."""
    build_bundle(source, out, precision="int8")
    before = (out / "model.onnx").stat().st_mtime_ns
    steps: list[str] = []
    build_bundle(source, out, precision="int8", progress=steps.append)
    assert (out / "model.onnx").stat().st_mtime_ns == before
    assert "already there" in steps[-1]


@pytest.mark.parametrize("change", ["pooling", "calibration", "damage", "force", "builder"])
def test_a_bundle_from_other_inputs_is_replaced(
    source: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Another choice, other calibration texts, another builder, a damaged graph, or the user's wish."""
    build_bundle(source, out, precision="int8")
    before = (out / "model.onnx").stat().st_ino
    texts = tmp_path / "texts.txt"
    texts.write_text("w1 w2 w3\nw4 w5\n")
    if change == "damage":
        (out / "model.onnx").write_bytes(b"half")
    if change == "builder":
        monkeypatch.setattr(bundle_builder, "BUILDER_VERSION", 10**6)
    build_bundle(
        source,
        out,
        precision="int8",
        pooling="cls" if change == "pooling" else None,
        calibration_file=texts if change == "calibration" else None,
        force=change == "force",
    )
    assert (out / "model.onnx").stat().st_ino != before
    check_files(out, read_bundle(out))


def test_a_build_that_fails_leaves_the_old_bundle_and_no_litter(
    source: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a bundle is never to be seen."""
    bundle = build_bundle(source, out, precision="int8")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_builder, "make_static_embedding", fail)
    with pytest.raises(OSError, match="No space"):
        build_bundle(source, out, precision="int8", force=True)
    check_files(out, bundle)
    assert [path.name for path in out.parent.iterdir() if path.is_dir()] == [out.name]


def test_the_old_bundle_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had been moved away by then, and comes back."""
    out, rename = tmp_path / "bundle", Path.rename
    out.mkdir()
    (out / "old").touch()

    def no_room_for_the_new(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise OSError(28, "No space left on device")
        return rename(path, target)

    def make(folder: Path) -> Bundle:
        (folder / "new").touch()
        return cast("Bundle", None)

    monkeypatch.setattr(Path, "rename", no_room_for_the_new)
    with pytest.raises(BuildError, match="No space"):
        made_once(out, {}, False, make, lambda _: None)
    assert [file.name for file in out.iterdir()] == ["old"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".bundle.lock", "bundle"]


def test_what_a_killed_build_left_is_removed(source: str, out: Path) -> None:
    """The next build of the same bundle cleans up."""
    left = out.parent / f".{out.name}.abc.building"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half")
    build_bundle(source, out, precision="int8")
    assert not left.exists()


def test_fp32_bundles_are_built_by_the_same_graph(source: str, tmp_path: Path) -> None:
    """INT8 is measured against it; it stands on its own as well."""
    exact = build_bundle(source, tmp_path / "fp32", precision="fp32")
    assert exact.precision == "fp32"
    assert "cosine_mean" not in exact.quality
    build_bundle(source, tmp_path / "int8", precision="int8")
    vectors = [
        open_graph((tmp_path / name / "model.onnx").read_bytes())(feeds(ragged([9])))["embeddings"][0]
        for name in ("fp32", "int8")
    ]
    assert np.dot(*vectors) > 0.99


def test_names_prompts_and_precision_are_part_of_the_inputs(source: str, out: Path) -> None:
    """What is given is what the bundle says."""
    bundle = build_bundle(source, out, precision="int8", name="mine", prompts={"query": "q: "})
    assert (bundle.model, bundle.prompts, bundle.provenance["prompts"]) == ("mine", {"query": "q: "}, "given")


def test_a_tokenizer_with_too_many_tokens_is_refused(source: str, out: Path) -> None:
    """Its largest ids would read past the embedding table."""
    config = json.loads((Path(source) / "config.json").read_text())
    write_checkpoint(Path(source), vocab_size=50)
    assert config["vocab_size"] > 50
    with pytest.raises(CheckpointError, match=r"has 100 tokens, config\.json 50"):
        build_bundle(source, out, precision="int8")
    assert not out.exists()


def test_an_unknown_architecture_leaves_nothing_behind(source: str, out: Path) -> None:
    """The error comes before anything is written."""
    write_json(Path(source) / "config.json", {"model_type": "t5"})
    with pytest.raises(UnsupportedModel, match="'t5'"):
        build_bundle(source, out, precision="int8")
    assert not out.parent.exists()


def test_a_graph_under_the_bar_is_refused() -> None:
    """Too far from FP32, or changing with its batch."""
    fine = {"cosine_mean": 0.999, "cosine_min": 0.99, "batch_dependent_texts": 0.0, "batch_checked_texts": 9.0}
    demand(fine)
    with pytest.raises(QualityError, match=r"cosine to FP32 is 0\.9000"):
        demand(fine | {"cosine_mean": 0.9})
    with pytest.raises(QualityError, match="1 of 9 texts change"):
        demand(fine | {"batch_dependent_texts": 1.0})


def test_lengths_to_check_stay_inside_the_limit() -> None:
    """They reach from two tokens to the limit and around each power of two."""
    lengths = lengths_to_check(256)
    assert (lengths[0], lengths[-1]) == (2, 256)
    assert {15, 16, 17, 127, 128, 129, 255} <= set(lengths)
    assert lengths_to_check(8)[-1] == 8


def test_the_report_shows_what_gptq_gained(source: str, out: Path) -> None:
    """Beside the graph's own figures stand those of weights rounded to the nearest, on the same texts."""
    steps: list[str] = []
    bundle = build_bundle(source, out, precision="int8", progress=steps.append)
    assert any(step.startswith("without GPTQ, each weight rounded to the nearest: mean 0.9") for step in steps)
    assert "rounding weights (GPTQ): layer 2 of 2" in steps
    assert bundle.quality["cosine_mean_nearest"] < 1
    assert bundle.recipe["weight_rounding"]["method"] == "gptq"


@pytest.mark.parametrize(("ratio", "precision"), [(1.6, "int8"), (0.7, "fp32")])
def test_the_faster_precision_is_taken_unless_one_is_given(
    source: str, out: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, precision: str
) -> None:
    """The ratio is measured on this machine; what was measured and chosen is reported."""
    monkeypatch.setattr(graph_step, "speed_ratio", lambda *_: ratio)
    steps: list[str] = []
    assert build_bundle(source, out, progress=steps.append).precision == precision
    assert any(f"INT8 computes {ratio:.2f} x" in step for step in steps)
    assert build_bundle(source, tmp_of(out), precision="int8").precision == "int8"


def tmp_of(out: Path) -> Path:
    """Another folder beside it."""
    return out.with_name("given")


def test_check_vectors_are_of_built_in_texts(source: str, out: Path, tmp_path: Path) -> None:
    """A bundle may be handed on, and must not carry what it was calibrated with."""
    (tmp_path / "texts.txt").write_text("w1 w2 w3\n" * 3)
    build_bundle(source, out, precision="int8", calibration_file=tmp_path / "texts.txt")
    check = CheckVectors.from_bytes((out / "check_vectors.npz").read_bytes())
    assert not any(text.tolist() == [2, 5, 6, 7, 3] for text in check.texts)
    assert compare(opened(out), check).identical


def opened(folder: Path) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """The folder's graph, from texts to vectors."""
    run = open_graph((folder / "model.onnx").read_bytes())
    return lambda texts: run(feeds(texts))["embeddings"]


def test_a_cpu_without_exact_products_gets_no_int8_bundle(
    source: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the precision that works."""
    monkeypatch.setattr(cpu_session, "integer_products", lambda: "inexact")
    with pytest.raises(QualityError, match="--precision fp32"):
        build_bundle(source, out, precision="int8")
    assert build_bundle(source, out, precision="fp32").precision == "fp32"


def test_a_folder_that_is_no_bundle_is_told_apart(tmp_path: Path) -> None:
    """`read_bundle` names the remedy."""
    with pytest.raises(BundleError, match="dejavec model build"):
        read_bundle(tmp_path)


def test_the_command_builds_shows_and_explains(source: str, tmp_path: Path) -> None:
    """`model build` tells every choice and where it came from; `model show` tells it again."""
    runner, out = CliRunner(), tmp_path / "b"
    built = runner.invoke(
        model_command, ["build", source, "--out", str(out), "--precision", "int8", "--prompts", '{"query": "q: "}']
    )
    assert built.exit_code == 0, built.output
    assert "pooling: 'mean', from 1_Pooling/config.json" in built.output
    assert "prompts: {'query': 'q: '}, from given" in built.output
    shown = runner.invoke(model_command, ["show", str(out)])
    assert shown.exit_code == 0
    assert "cosine_mean" in shown.output


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    """A fault that a person can mend has exit status 2 and no trace."""
    runner = CliRunner()
    for arguments in (["build", str(tmp_path / "none")], ["show", str(tmp_path)], ["build", "--prompts", "{"]):
        result = runner.invoke(model_command, arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output


def test_prompts_may_come_from_a_file(source: str, tmp_path: Path) -> None:
    """A name of a file is as good as the JSON itself."""
    write_json(tmp_path / "prompts.json", {"document": "d: "})
    arguments = ["build", source, "--out", str(tmp_path / "b"), "--prompts", str(tmp_path / "prompts.json")]
    assert CliRunner().invoke(model_command, arguments).exit_code == 0
    assert read_bundle(tmp_path / "b").prompts == {"document": "d: "}


def test_every_failure_is_a_build_error() -> None:
    """One class is enough to catch them all."""
    assert issubclass(CheckpointError, BuildError)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bundle; its checkpoint has 40 positions, 100 token vectors and 32 dimensions."""
    folder = tmp_path_factory.mktemp("built")
    write_checkpoint(folder / "tiny")
    build_bundle(str(folder / "tiny"), folder / "bundle", precision="int8")
    return folder / "bundle"


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("max_tokens", 41, "max_tokens 41 or vocab_size 100 is more than the graph has"),
        ("max_tokens", 2, "max_tokens: 2 is not between 3"),
        ("vocab_size", 101, "max_tokens 24 or vocab_size 101 is more than the graph has"),
        ("vocab_size", 50, "vocab_size: 50, but tokenizer.json has ids up to"),
        ("dimensions", 33, "dimensions: 33, but the graph gives 32"),
    ],
)
def test_sizes_that_graph_or_tokenizer_do_not_have_are_refused(
    built: Path, tmp_path: Path, field: str, value: int, complaint: str
) -> None:
    """At the engine's start, not with the first long text: `bundle.json` is covered by no hash."""
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    content = json.loads((folder / "bundle.json").read_text())
    write_json(folder / "bundle.json", content | {field: value})
    with pytest.raises(BundleError, match=complaint):
        open_model(folder, "cpu", ONE_CORE, allow_unverified=True)


def test_the_largest_sizes_there_are_open(built: Path, tmp_path: Path) -> None:
    """Every position of the checkpoint may be used."""
    folder = Path(shutil.copytree(built, tmp_path / "bundle"))
    content = json.loads((folder / "bundle.json").read_text())
    write_json(folder / "bundle.json", content | {"max_tokens": 40})
    assert open_model(folder, "cpu", ONE_CORE, allow_unverified=True).bundle.max_tokens == 40


@pytest.mark.parametrize("how", ["no folder", "closed folder"])
def test_a_place_that_cannot_be_written_is_one_message(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """No trace, and the option that names another place."""
    (tmp_path / "file").touch()
    place = tmp_path / ("file" if how == "no folder" else "closed") / "bundle"

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")  # which root, who may run this, would not get

    if how == "closed folder":
        monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    result = CliRunner().invoke(model_command, ["build", source, "--out", str(place)])
    assert result.exit_code == 2
    assert f"Error: {place} cannot be written: " in result.output
    assert result.output.endswith("; --out names another folder\n")


def test_a_full_disk_is_one_message(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of it; nothing is left."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BuildError, match="cannot be written: No space left on device"):
        build_bundle(source, tmp_path / "models" / "tiny", precision="fp32")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".tiny.lock"]
