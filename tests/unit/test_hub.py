"""Models by their hub id: what is fetched, in what order, after interruptions, without a network, and when damaged."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import ROOT
from tests.exported_bert import export
from tests.stand_in_hub import COMMIT, MODEL, StandInHub
from tests.tiny_bert import CONFIG, tensors, write_checkpoint, write_json

WEIGHTS = "model.safetensors"
# Reads a model as `dejavec model build` or `import` does, and writes what arrives in small pieces.
OPEN = """
import sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000
from engine.build.checkpoint.files import open_checkpoint
from engine.build.errors import BuildError
from engine.build.imported.plan import ImportOptions, plan_import

try:
    checkpoint = open_checkpoint(sys.argv[2]) if sys.argv[1] == "build" else (
        plan_import(sys.argv[2], ImportOptions()).source.checkpoint)
    print(checkpoint.model_id, checkpoint.revision, checkpoint.weights_sha256)
except BuildError as error:
    print("refused:", error)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandInHub]:
    """A hub with a tiny model, its pickle, and its graph in ONNX with external data."""
    folder = tmp_path / "model"
    config = write_checkpoint(folder)
    export(tensors(config), config, folder / "onnx" / "model.onnx", external="model.onnx_data")
    (folder / "pytorch_model.bin").write_bytes(b"code")
    (folder / "onnx" / "model_O4.onnx").write_bytes(b"another")
    with StandInHub(folder).running() as found:
        yield found


def environment(hub: StandInHub, cache: Path, **variables: str) -> dict[str, str]:
    """Of a process whose hub and cache these are."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return base | own | variables


def run(hub: StandInHub, cache: Path, what: str = "build", source: str = MODEL, **variables: str) -> str:
    """What a process of its own said of the model; no trace."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, what, source],
        env=environment(hub, cache, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
    return done.stdout.strip()


def expected(hub: StandInHub) -> str:
    """What a process says that has the weights whole."""
    return f"{MODEL} {COMMIT} {hashlib.sha256((hub.folder / WEIGHTS).read_bytes()).hexdigest()}"


def test_only_what_is_needed_is_fetched_and_once(hub: StandInHub, tmp_path: Path) -> None:
    """No pickle and no graph; a second run needs nothing, nor does one without a network, or without the hub."""
    assert run(hub, tmp_path / "cache", source=f"{MODEL}@main") == expected(hub)
    names = [name for name, _ in hub.gets]
    assert sorted(names) == sorted(set(names))
    assert {"config.json", "tokenizer.json", "1_Pooling/config.json", WEIGHTS} <= set(names)
    assert not any(name.endswith(("bin", "onnx", "onnx_data")) for name in names)
    assert run(hub, tmp_path / "cache") == expected(hub)
    assert run(hub, tmp_path / "cache", HF_HUB_OFFLINE="1") == expected(hub)
    assert run(hub, tmp_path / "cache", HF_ENDPOINT="http://127.0.0.1:9") == expected(hub)
    assert len(hub.gets) == len(names)


def test_without_network_and_cache_the_message_says_what_to_name(hub: StandInHub, tmp_path: Path) -> None:
    """A folder; and of a model whose small files alone are there, which file is missing."""
    said = run(hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert said.startswith(f"refused: {MODEL} could not be fetched, and is not in the hub's cache")
    assert "name a folder instead" in said
    write_json(hub.folder / "config.json", CONFIG | {"model_type": "deberta-v2"})
    assert "no graph here" in _refused_build(hub, tmp_path / "cache")
    (config,) = (tmp_path / "cache").rglob(f"{COMMIT}/config.json")
    config.unlink()
    write_json(config, CONFIG)
    said = run(hub, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert f"{WEIGHTS} is not in the hub's cache, and the hub cannot be reached" in said


def test_a_model_that_the_hub_has_not_is_refused(hub: StandInHub, tmp_path: Path) -> None:
    """In one line, without a trace."""
    said = run(hub, tmp_path / "cache", source="owner/other")
    assert said.startswith("refused: the hub refused owner/other")


def test_a_connection_cut_in_the_middle_goes_on_within_the_run(hub: StandInHub, tmp_path: Path) -> None:
    """From the byte where it was cut."""
    hub.cut_at = 30_000
    assert run(hub, tmp_path / "cache") == expected(hub)
    assert hub.fetched(WEIGHTS) == [0, 30_000]


def test_a_killed_run_is_gone_on_from_by_the_next(hub: StandInHub, tmp_path: Path) -> None:
    """What had arrived is not fetched again, and the hash is that of the whole."""
    hub.hold_at = 40_000
    command = [sys.executable, "-c", OPEN, "build", MODEL]
    process = subprocess.Popen(command, env=environment(hub, tmp_path / "cache"), stderr=subprocess.DEVNULL)
    assert hub.held.wait(60)
    (part,) = _until_there(tmp_path / "cache")
    process.kill()
    process.wait()
    hub.hold_at = None
    kept = part.stat().st_size
    assert kept > 0
    assert run(hub, tmp_path / "cache") == expected(hub)
    assert hub.fetched(WEIGHTS) == [0, kept]


def _until_there(cache: Path) -> list[Path]:
    """The part of a file that has come so far, once there is some."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        parts = [part for part in cache.rglob("*.incomplete") if part.stat().st_size]
        if parts:
            return parts
        time.sleep(0.02)
    raise AssertionError("nothing was written")


def test_damaged_bytes_are_found_and_thrown_away(hub: StandInHub, tmp_path: Path) -> None:
    """The size is right and the hash is not: nothing is used of it, and the next run begins anew."""
    hub.damaged = True
    said = run(hub, tmp_path / "cache")
    assert said.startswith(f"refused: {WEIGHTS} of {MODEL} came with SHA-256")
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.damaged = False
    assert run(hub, tmp_path / "cache") == expected(hub)
    assert hub.fetched(WEIGHTS) == [0, 0]


def test_a_damaged_file_in_the_cache_is_found(hub: StandInHub, tmp_path: Path) -> None:
    """A large file by its SHA-256 and a small one by Git's hash; with a network and without."""
    run(hub, tmp_path / "cache")
    for name, offline in ((WEIGHTS, "0"), ("tokenizer.json", "1")):
        (path,) = (tmp_path / "cache").rglob(name)
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.resolve().write_bytes(content)
        said = run(hub, tmp_path / "cache", HF_HUB_OFFLINE=offline)
        assert "is not the file that the hub has" in said
        assert str(path.resolve()) in said


def _refused_build(hub: StandInHub, cache: Path, command: str = "build") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "model", command, MODEL, "--out", str(cache.parent / "bundle")],
        env=environment(hub, cache),
        cwd=cache.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("command", "files", "message"),
    [
        ("build", {"config.json": CONFIG | {"model_type": "deberta-v2"}}, "model_type 'deberta-v2' has no graph here"),
        ("build", {"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, "own code is never run"),
        ("import", {"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "pooling"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_large_is_fetched(
    hub: StandInHub, tmp_path: Path, command: str, files: dict[str, object], message: str
) -> None:
    """The small files are read first; gigabytes stay where they are."""
    for name, content in files.items():
        write_json(hub.folder / name, content)
    assert message in _refused_build(hub, tmp_path / "cache", command)
    assert not any(name.endswith((WEIGHTS, ".onnx", ".onnx_data", ".bin")) for name, _ in hub.gets)


def test_an_import_fetches_the_graph_and_its_external_data_alone(hub: StandInHub, tmp_path: Path) -> None:
    """Of several graphs the one in FP32, and what it names; again without a network."""
    digest = hashlib.sha256((hub.folder / "onnx" / "model.onnx").read_bytes()).hexdigest()
    said = run(hub, tmp_path / "cache", "import")
    assert said.split()[:2] == [MODEL, COMMIT]
    assert len(said.split()[2]) == 64
    assert said.split()[2] != digest  # the external data are in it
    large = {name for name, _ in hub.gets if name.endswith((".onnx", ".onnx_data", ".safetensors", ".bin"))}
    assert large == {"onnx/model.onnx", "onnx/model.onnx_data"}
    assert run(hub, tmp_path / "cache", "import", HF_HUB_OFFLINE="1") == said
    assert run(hub, tmp_path / "cache", "import", str(hub.folder)).split()[2] == said.split()[2]


def test_a_model_without_a_graph_says_what_else_there_is(hub: StandInHub, tmp_path: Path) -> None:
    """`dejavec model build`, if need be with an exporter."""
    for file in (hub.folder / "onnx").iterdir():
        file.unlink()
    assert "--exporter optimum" in run(hub, tmp_path / "cache", "import")
