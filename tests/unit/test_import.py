"""`dejavec model import`: an exported BERT becomes a bundle with the native build's vectors, or is refused by name."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from engine.build import build_bundle
from engine.build.cli import model as model_command
from engine.build.errors import CheckpointError, QualityError, UnsupportedModel
from engine.build.imported import source as source_module
from engine.build.imported.exported import prepare
from engine.build.imported.importer import import_bundle
from engine.build.imported.plan import LONGEST, ImportOptions, plan_import
from engine.build.imported.products import find_sites
from engine.build.imported.rewrite import write_imported
from engine.build.quality import count_batch_dependent
from engine.build.running import embed, open_graph
from engine.bundle import Bundle, BundleError, check_files, read_bundle
from engine.model.check_vectors import cosine_similarity
from engine.model.session import open_model
from engine.model.topology import Topology
from engine.protocol import Float32Array
from engine.serving import build_engine
from engine.settings import EngineSettings
from tests.exported_bert import export
from tests.tiny_bert import ragged, tensors, write_checkpoint, write_json

ONE_CORE = Topology(cores=1.0, sessions=1, threads=1)
ROBERTA = {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
FP32 = ImportOptions(precision="fp32")
INT8 = ImportOptions(precision="int8", force=True)  # a random model is harder on INT8 than a trained one
TEXTS = ragged([2, 3, 5, 9, 24, 7])


def write_export(folder: Path, **options: object) -> Path:
    """A folder as embedding models on the hub have it, with the graph of the tiny BERT in onnx/."""
    config = write_checkpoint(folder)
    export(tensors(config), config, folder / "onnx" / "model.onnx", **options)  # type: ignore[arg-type]
    return folder


def change_graph(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Edit the exported graph in place."""
    path = folder / "onnx" / "model.onnx"
    content = onnx.load(path, load_external_data=False)
    change(content)
    path.write_bytes(content.SerializeToString())


def vectors(bundle: Path) -> Float32Array:
    """Of TEXTS, in batches."""
    return embed(open_graph((bundle / "model.onnx").read_bytes()), TEXTS)


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import: what it is and where."""

    bundle: Bundle
    folder: Path
    source: Path
    steps: list[str]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Float32Array:
    """TEXTS by the FP32 graph that the builder writes from the same weights."""
    folder = tmp_path_factory.mktemp("native")
    write_checkpoint(folder / "tiny")
    build_bundle(str(folder / "tiny"), folder / "bundle", precision="fp32")
    return vectors(folder / "bundle")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """An INT8 import, with the weights in a file of their own."""
    folder = tmp_path_factory.mktemp("int8")
    source = write_export(folder / "tiny", external="model.onnx_data")
    steps: list[str] = []
    return Imported(import_bundle(source, folder / "bundle", INT8, steps.append), folder / "bundle", source, steps)


@pytest.fixture(scope="module")
def dependent(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """An INT8 import of a graph whose attention sees padding."""
    folder = tmp_path_factory.mktemp("dependent")
    source = write_export(folder / "tiny", masked=False)
    steps: list[str] = []
    return Imported(import_bundle(source, folder / "bundle", INT8, steps.append), folder / "bundle", source, steps)


@pytest.mark.parametrize("opset", [11, 14, 17, 20, 23])
def test_fp32_gives_the_vectors_of_the_native_build(tmp_path: Path, native: Float32Array, opset: int) -> None:
    """Whatever form the exporter gave norms, GELU, axes: the same to 1e-5, and no byte changes with the batch."""
    source = write_export(tmp_path / "tiny", opset=opset)
    bundle = import_bundle(source, tmp_path / "bundle", FP32)
    assert np.abs(vectors(tmp_path / "bundle") - native).max() <= 1e-5 * np.abs(native).max()
    assert (bundle.precision, bundle.batch_dependent, bundle.quality["batch_dependent_texts"]) == ("fp32", False, 0)
    assert bundle.recipe["imported"]["opset"] == opset
    assert bundle.recipe["opset"] == 21


def test_int8_is_close_and_does_not_depend_on_the_batch(int8: Imported, native: Float32Array) -> None:
    """All twelve products over tokens are integers, and so is the table of tokens."""
    assert cosine_similarity(vectors(int8.folder), native).min() > 0.99
    graph = onnx.load(int8.folder / "model.onnx")
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in graph.graph.node) == 12
    kept = [tensor for tensor in graph.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert all(int(np.prod(tensor.dims)) < 100 * 32 for tensor in kept)
    run = open_graph(graph)
    assert count_batch_dependent(run, 24, 100) == int8.bundle.quality["batch_dependent_texts"] == 0
    assert not int8.bundle.batch_dependent
    assert int8.bundle.recipe["imported"] | {"difference": 0} == {
        "file": "model.onnx",
        "opset": 14,
        "output": "last_hidden_state",
        "difference": 0,
        "int8_products": 12,
        "fp32_products": 0,
    }


def test_a_bundle_is_whole_and_an_engine_serves_it(int8: Imported) -> None:
    """As any other bundle: its files, its choices, its check vectors."""
    assert read_bundle(int8.folder) == int8.bundle
    check_files(int8.folder, int8.bundle)
    assert (int8.bundle.pooling, int8.bundle.normalize, int8.bundle.max_tokens) == ("mean", True, 24)
    model = open_model(int8.folder, "cpu", ONE_CORE, allow_unverified=True)
    assert model.agreement.identical
    assert model.runs[0](TEXTS).tobytes() == vectors(int8.folder).tobytes()


def test_the_same_import_is_not_made_again(int8: Imported) -> None:
    """The file itself names the same model as its folder."""
    steps: list[str] = []
    options = ImportOptions(precision="int8")
    again = import_bundle(int8.source / "onnx" / "model.onnx", int8.folder, options, steps.append)
    assert again == int8.bundle
    assert "already there" in steps[-1]


def test_other_weights_in_the_external_file_are_another_model(int8: Imported, tmp_path: Path) -> None:
    """The hash of the source covers them."""
    shutil.copytree(int8.source, tmp_path / "other")
    data = tmp_path / "other" / "onnx" / "model.onnx_data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    found = plan_import(tmp_path / "other", ImportOptions()).source.checkpoint.weights_sha256
    assert found != int8.bundle.source_sha256


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_pooling_is_that_of_the_files_or_the_users(tmp_path: Path, pooling: str) -> None:
    """It goes inside the graph, as in a native build."""
    write_export(tmp_path / "tiny")
    options = ImportOptions(precision="fp32", pooling=pooling)  # type: ignore[arg-type]
    bundle = import_bundle(tmp_path / "tiny", tmp_path / "bundle", options)
    build_bundle(str(tmp_path / "tiny"), tmp_path / "native", precision="fp32", pooling=pooling)  # type: ignore[arg-type]
    assert bundle.pooling == pooling
    np.testing.assert_allclose(vectors(tmp_path / "bundle"), vectors(tmp_path / "native"), atol=1e-5)


def test_a_graph_with_vectors_alone_is_used_as_it_is(tmp_path: Path, native: Float32Array) -> None:
    """Its pooling is not done twice, and that it normalises is measured."""
    source = write_export(tmp_path / "tiny", output="", sentence_embedding=True)
    bundle = import_bundle(source, tmp_path / "bundle", FP32)
    np.testing.assert_allclose(vectors(tmp_path / "bundle"), native, atol=1e-5)
    assert bundle.normalize
    assert "gives texts' vectors itself" in bundle.provenance["pooling"]
    with pytest.raises(UnsupportedModel, match="--pooling cannot be chosen"):
        import_bundle(source, tmp_path / "other", ImportOptions(pooling="cls"))


def test_pooling_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    """A graph that gives both says by its vectors what the pooling is."""
    source = write_export(tmp_path / "tiny", sentence_embedding=True)
    import_bundle(source, tmp_path / "bundle", FP32)
    with pytest.raises(UnsupportedModel, match=r"pooling 'cls' \(given\) gives other vectors"):
        import_bundle(source, tmp_path / "other", ImportOptions(precision="fp32", pooling="cls"))


def test_positions_that_begin_after_the_paddings_are_those_of_the_native_build(tmp_path: Path) -> None:
    """RoBERTa's: the graph counts from the padding token's id on, which takes two positions from the longest text."""
    config = write_checkpoint(tmp_path / "tiny", max_tokens=None, **ROBERTA)
    export(tensors(config), config, tmp_path / "tiny" / "onnx" / "model.onnx", pads_first=True)
    bundle = import_bundle(tmp_path / "tiny", tmp_path / "bundle", FP32)
    native = build_bundle(str(tmp_path / "tiny"), tmp_path / "native", precision="fp32")
    assert native.max_tokens == 38
    assert bundle.max_tokens == 36  # a multiple of four below it: padding must not lead beyond the last position
    assert bundle.quality["batch_dependent_texts"] == 0
    np.testing.assert_allclose(vectors(tmp_path / "bundle"), vectors(tmp_path / "native"), atol=1e-5)


def test_a_graph_without_token_types_gives_the_same_vectors(tmp_path: Path, native: Float32Array) -> None:
    """It takes two inputs."""
    source = write_export(tmp_path / "tiny", token_types=False)
    assert set(plan_import(source, ImportOptions()).contract.inputs) == {"input_ids", "attention_mask"}
    import_bundle(source, tmp_path / "bundle", FP32)
    np.testing.assert_allclose(vectors(tmp_path / "bundle"), native, atol=1e-5)


# Batch-dependent graphs.


def test_a_batch_dependent_graph_is_marked(dependent: Imported) -> None:
    """It is measured, reported and recorded, and its figures are those of texts run alone."""
    assert dependent.bundle.batch_dependent
    assert dependent.bundle.quality["batch_dependent_texts"] > 0
    assert dependent.bundle.quality["cosine_mean"] > 0.99
    assert any(step.startswith("BATCH-DEPENDENT") for step in dependent.steps)


def test_an_engine_refuses_it_unless_told_to(dependent: Imported) -> None:
    """The message names the setting."""
    settings = EngineSettings(model_bundle=dependent.folder, device="cpu", allow_unverified_bundle=True)
    with pytest.raises(BundleError, match=r"batch-dependent.*DEJAVEC_ALLOW_BATCH_DEPENDENT_BUNDLE=true"):
        build_engine(settings)
    engine = build_engine(settings.model_copy(update={"allow_batch_dependent_bundle": True}))
    assert engine.batcher._settings.shape.max_rows == 1


def test_its_texts_run_alone(dependent: Imported) -> None:
    """Together or one by one: the same bytes, while the bare graph gives others."""
    model = open_model(dependent.folder, "cpu", ONE_CORE, allow_unverified=True, allow_batch_dependent=True)
    together = model.runs[0](TEXTS)
    assert together.tobytes() == np.concatenate([model.runs[0]([text]) for text in TEXTS]).tobytes()
    assert not np.allclose(together, vectors(dependent.folder), atol=1e-3)
    assert model.agreement.identical


@pytest.mark.parametrize("which", ["int8", "dependent"])
def test_verify_compares_with_the_exported_graph(which: str, request: pytest.FixtureRequest) -> None:
    """Given where it is; without it nothing is compared, and that is said."""
    imported: Imported = request.getfixturevalue(which)
    arguments = ["verify", str(imported.folder), "--no-speed", "--no-keep"]
    result = CliRunner().invoke(model_command, [*arguments, "--checkpoint", str(imported.source)])
    assert "cosine to FP32, mean" in result.output
    assert ("batch-dependent: " in result.output) == (which == "dependent")
    assert "name the exported graph or folder" in CliRunner().invoke(model_command, arguments).output


# Refusals.


def test_the_command_imports_and_refuses(tmp_path: Path) -> None:
    """One line for what was made; one for what is wrong, with exit status 2."""
    source = write_export(tmp_path / "tiny")
    arguments = ["import", str(source), "--out", str(tmp_path / "bundle"), "--precision", "fp32", "--max-tokens", "12"]
    result = CliRunner().invoke(model_command, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == f"tiny: {tmp_path / 'bundle'}"
    assert read_bundle(tmp_path / "bundle").max_tokens == 12
    (source / "onnx" / "model.onnx").write_bytes(b"no graph")
    result = CliRunner().invoke(model_command, arguments)
    assert (result.exit_code, "is not an ONNX graph" in result.output) == (2, True)


def add_node(kind: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    """A change that puts one more operator into the graph."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(kind, ["input_ids"], ["more"], domain=domain))
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def halve(model: onnx.ModelProto) -> None:
    """A weight in half precision."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float16), "half"))


def take_more(model: onnx.ModelProto) -> None:
    """An input that nobody gives."""
    model.graph.input.append(helper.make_tensor_value_info("task_id", TensorProto.INT64, []))


def fix_size(model: onnx.ModelProto) -> None:
    """A graph for texts of one length."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128


def take_no_ids(model: onnx.ModelProto) -> None:
    """A graph for something other than token ids."""
    model.graph.input[0].name = "pixel_values"


def give_logits(model: onnx.ModelProto) -> None:
    """A classifier."""
    model.graph.output[0].name = "logits"


def make_old(model: onnx.ModelProto) -> None:
    """An opset from before 2018."""
    model.opset_import[0].version = 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_node("FancyAttention", "my.company"), "my.company::FancyAttention.*never loaded"),
        (add_node("DynamicQuantizeLinear"), r"quantised already \(DynamicQuantizeLinear\)"),
        (add_node("Bernoulli"), "random operators"),
        (halve, "'half' has half precision"),
        (take_more, "takes task_id"),
        (fix_size, "input_ids has a fixed size"),
        (take_no_ids, "takes pixel_values"),
        (give_logits, "gives logits; one of last_hidden_state"),
        (make_old, "opset 6"),
    ],
)
def test_a_graph_that_cannot_be_imported_is_refused_by_name(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is computed, and nothing is left behind."""
    source = write_export(tmp_path / "tiny")
    change_graph(source, change)
    monkeypatch.setattr(onnx.checker, "check_model", lambda _: None)  # what a stricter check would say comes first
    with pytest.raises(UnsupportedModel, match=message):
        import_bundle(source, tmp_path / "out" / "bundle", FP32)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "location",
    ["../outside", "/etc/hostname", "a/../../outside", "..\\outside", "C:\\outside", "\\\\host\\share", ""],
)
def test_external_data_outside_the_folder_is_never_read(tmp_path: Path, location: str) -> None:
    """Whatever way the path leads out."""
    source = write_export(tmp_path / "tiny", external="model.onnx_data")
    shutil.copy(source / "onnx" / "model.onnx_data", source / "outside")
    change_graph(source, lambda model: point_to(model, location))
    with pytest.raises(CheckpointError, match="outside its folder"):
        plan_import(source, ImportOptions())


def point_to(model: onnx.ModelProto, location: str) -> None:
    """Make all external weights lie in the file named."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def test_a_link_out_of_the_folder_is_not_followed_but_the_hubs_are(tmp_path: Path) -> None:
    """The hub's cache has the files of a snapshot as links into one folder of blobs, the graph's among them."""
    source = write_export(tmp_path / "tiny", external="model.onnx_data")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    data, graph = source / "onnx" / "model.onnx_data", source / "onnx" / "model.onnx"
    data.rename(blobs / "1234")
    data.symlink_to(blobs / "1234")
    with pytest.raises(CheckpointError, match="a link out of its folder"):
        plan_import(source, ImportOptions())
    graph.rename(blobs / "5678")
    graph.symlink_to(blobs / "5678")
    plan_import(source, ImportOptions())


def test_external_data_that_is_missing_short_or_no_file_is_refused(tmp_path: Path) -> None:
    """Each by name; a pipe would be waited for."""
    source = write_export(tmp_path / "tiny", external="model.onnx_data")
    data = source / "onnx" / "model.onnx_data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        plan_import(source, ImportOptions())
    data.unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx_data is missing"):
        plan_import(source, ImportOptions())
    os.mkfifo(data)
    with pytest.raises(CheckpointError, match="no plain file"):
        plan_import(source, ImportOptions())


@pytest.mark.parametrize("external", ["", "model.onnx_data"])
def test_a_model_too_large_for_one_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: str
) -> None:
    """Counted before it is read, with its external data."""
    source = write_export(tmp_path / "tiny", external=external)
    monkeypatch.setattr(source_module, "MAX_BYTES", 60_000)
    with pytest.raises(UnsupportedModel, match="one file"):
        plan_import(source, ImportOptions())


@pytest.mark.parametrize(
    ("missing", "message"),
    [("tokenizer.json", "tokenizer.json is missing"), ("config.json", "config.json is missing")],
)
def test_what_must_lie_beside_the_graph(tmp_path: Path, missing: str, message: str) -> None:
    """The tokenizer and the configuration."""
    source = write_export(tmp_path / "tiny")
    (source / missing).unlink()
    with pytest.raises(CheckpointError, match=message):
        plan_import(source, ImportOptions())


def test_a_place_without_a_graph_is_refused(tmp_path: Path) -> None:
    """A folder without one, another file, nothing at all."""
    write_checkpoint(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=r"neither onnx/model\.onnx nor model\.onnx"):
        plan_import(tmp_path / "tiny", ImportOptions())
    for path in (tmp_path / "tiny" / "config.json", tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match=r"neither an \.onnx file nor a folder"):
            plan_import(path, ImportOptions())


def test_the_longest_text_is_bounded(tmp_path: Path) -> None:
    """By the model's positions, by the user, by the memory that whole attention scores take; rounded for padding."""
    source = write_export(tmp_path / "tiny")
    config = json.loads((source / "config.json").read_text())
    (source / "sentence_bert_config.json").unlink()
    for positions, given, expected in ((8192, None, LONGEST), (8192, 4096, 4096), (38, None, 36), (40, 17, 17)):
        write_json(source / "config.json", config | {"max_position_embeddings": positions})
        plan = plan_import(source, ImportOptions(max_tokens=given))
        assert plan.choices.max_tokens == expected
    with pytest.raises(CheckpointError, match="more than the 40 positions"):
        plan_import(source, ImportOptions(max_tokens=41))
    del config["max_position_embeddings"]
    write_json(source / "config.json", config)
    with pytest.raises(CheckpointError, match="--max-tokens"):
        plan_import(source, ImportOptions())


def test_a_graph_that_fails_at_its_limit_is_refused(tmp_path: Path) -> None:
    """config.json names more positions than the graph has."""
    source = write_export(tmp_path / "tiny")
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", config | {"max_position_embeddings": 512})
    with pytest.raises(UnsupportedModel, match=r"fails on a text of 64 tokens.*--max-tokens"):
        import_bundle(source, tmp_path / "bundle", ImportOptions(precision="fp32", max_tokens=64))


@pytest.mark.parametrize("opset", [11, 20])
def test_what_a_site_is_shows_in_the_graph(tmp_path: Path, opset: int) -> None:
    """Norms and GELU, as one operator or in pieces; the attention's output is neither."""
    source = write_export(tmp_path / "tiny", opset=opset)
    plan = plan_import(source, FP32)
    exported = prepare(plan.source, plan.contract)
    sites = find_sites(exported, 100, lambda names: open_graph(write_imported(exported, 0, watched=names))).all()
    kinds = [(len(site.products), site.after_norm, site.lowest is not None) for site in sites]
    assert kinds == 2 * [(3, True, False), (1, False, False), (1, True, False), (1, False, True)]


def write_forms(folder: Path) -> Path:
    """A graph with each form that a product can have: Gemm on flat rows, a transposed and a shared weight, one within
    a function, one with a narrow weight, and one of a single row for each text, which is none of tokens."""
    write_checkpoint(folder)
    rng = np.random.default_rng(0)
    weights = {
        "table": (100, 32),
        "gemm": (48, 32),
        "bias": (48,),
        "turned": (32, 48),
        "own": (32, 32),
        "thin": (32, 4),
    }
    constants = [
        numpy_helper.from_array((rng.standard_normal(shape) / 4).astype(np.float32), name)
        for name, shape in weights.items()
    ]
    constants += [
        numpy_helper.from_array(np.array(shape, np.int64), name)
        for name, shape in (("flat", [-1, 32]), ("first", [0]), ("axis", [1]), ("width", [48]), ("one", [1]))
    ]
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["x"]),
        node("Reshape", ["x", "flat"], ["rows"]),
        node("Gemm", ["rows", "gemm", "bias"], ["g"], transB=1),
        node("Shape", ["input_ids"], ["shape"]),
        node("Concat", ["shape", "width"], ["padded"], axis=0),
        node("Reshape", ["g", "padded"], ["wide_states"]),
        node("Transpose", ["turned"], ["turned_back"], perm=[1, 0]),
        node("MatMul", ["wide_states", "turned_back"], ["back"]),
        node("Identity", ["own"], ["shared"]),
        node("MatMul", ["back", "shared"], ["mixed"]),
        node("Twice", ["mixed", "own"], ["doubled"], domain="local"),
        node("MatMul", ["x", "thin"], ["few"]),
        node("ReduceMax", ["few"], ["top"], axes=[2], keepdims=1),
        node("Slice", ["x", "first", "one", "axis"], ["leading"]),
        node("MatMul", ["leading", "own"], ["once"]),
        node("Add", ["doubled", "once"], ["sum"]),
        node("Add", ["sum", "top"], ["token_embeddings"]),
    ]
    function = helper.make_function(
        "local", "Twice", ["a", "w"], ["b"],
        [node("MatMul", ["a", "w"], ["c"]), node("Add", ["c", "c"], ["b"])], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["batch", "sequence"])
    states = helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["batch", "sequence", 32])
    graph = helper.make_graph(nodes, "forms", [ids], [states], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8), folder / "model.onnx")
    return folder


def test_products_are_found_in_every_form(tmp_path: Path) -> None:
    """Those of tokens become integers; a narrow one and one of a row a text stay as they are."""
    source = write_forms(tmp_path / "tiny")
    import_bundle(source, tmp_path / "fp32", FP32)
    bundle = import_bundle(source, tmp_path / "int8", INT8)
    assert bundle.recipe["imported"]["int8_products"] == 4
    assert bundle.recipe["imported"]["fp32_products"] == 1
    assert not bundle.batch_dependent
    assert cosine_similarity(vectors(tmp_path / "int8"), vectors(tmp_path / "fp32")).min() > 0.99


def test_int8_of_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    """FP32 is what there is, and the default takes it."""
    write_checkpoint(tmp_path / "tiny")
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((100, 32)).astype(np.float32), "table")
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    states = helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["batch", "sequence", 32])
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["token_embeddings"])]
    graph = helper.make_graph(nodes, "words", [ids], [states], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "tiny" / "model.onnx")
    with pytest.raises(QualityError, match="no products"):
        import_bundle(tmp_path / "tiny", tmp_path / "bundle", INT8)
    assert import_bundle(tmp_path / "tiny", tmp_path / "bundle", ImportOptions()).precision == "fp32"
