"""`dejavec up` whose processes cannot start with their bundle or configuration: it ends, and its last line is why.

Real processes and tiny models. Each wait has a generous bound, since other work may share the machine.
"""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded_redis import NotAvailable, locate
from engine.exit_status import CANNOT_START
from tests.e2e.stack import Run, answers, is_gone, running, until
from tests.integration.engine_under_test import write_tiny_bundle

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

CALM = {  # whatever else the machine does, no process counts as hung and L0 keeps its entry
    "DEJAVEC_WATCH_FAILURES": "1000",
    "DEJAVEC_LOCAL_CACHE_TTL_SECONDS": "3600",
}
FILES = ("redis/password", "logs/engine.log", "run/engine-refusal.txt")
UNDER_THE_BAR = {"cosine_mean": 0.9, "cosine_min": 0.5, "batch_dependent_texts": 0.0}


def rejected(folder: Path) -> Path:
    """A bundle whose `bundle.json` has a quality that may not serve."""
    return write_tiny_bundle(folder / "bundle", precision="fp16", quality=UNDER_THE_BAR)


def halve_graph(bundle: Path) -> Path:
    """Cut its graph in half."""
    graph = bundle / "model.onnx"
    os.truncate(graph, graph.stat().st_size // 2)
    return bundle


@contextmanager
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def ended(run: Run) -> str:
    """Wait for its end; the last line it printed, after the checks that hold for every such end."""
    assert run.wait() == CANNOT_START, run.printed
    assert "Traceback" not in run.printed
    return run.printed.splitlines()[-1]


def test_a_rejected_bundle_ends_the_start(tmp_path: Path) -> None:
    """The engine's own reason with its remedy, given by one process and repeated once at the end."""
    run = Run(tmp_path, DEJAVEC_MODEL_BUNDLE=str(rejected(tmp_path)))
    line = ended(run)
    assert "engine cannot start: the bundle" in line
    assert "is under the bar" in line
    assert "DEJAVEC_ALLOW_UNVERIFIED_BUNDLE=true" in line
    assert run.printed.count("starting engine") == 1
    assert "starting it again" not in run.printed
    log = (tmp_path / ".dejavec" / "logs" / "dejavec.log").read_text()
    assert log.count("is under the bar") == 1


def test_a_truncated_graph_ends_the_start(tmp_path: Path) -> None:
    """The damaged file and what to do."""
    bundle = halve_graph(write_tiny_bundle(tmp_path / "bundle"))
    line = ended(Run(tmp_path, DEJAVEC_MODEL_BUNDLE=str(bundle)))
    assert f"{bundle}/model.onnx is not the file the bundle was made with; build the bundle again" in line


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DEJAVEC_MAX_BATCH_SIZE", "none", "max_batch_size"),
        ("DEJAVEC_TOKEN_INPUT_ENCODING", "nonsense", "token_input_encoding 'nonsense' is not one of"),
        ("DEJAVEC_MODEL_BUNDLE", "/nowhere/bundle", "run `dejavec model build`"),
    ],
)
def test_a_bad_setting_ends_the_start(tmp_path: Path, name: str, value: str, told: str) -> None:
    """Whether `up` finds it before anything is started, or only the process that uses it."""
    assert told in ended(Run(tmp_path, **{name: value}))


@pytest.mark.parametrize("setting", ["DEJAVEC_ENGINE_PORT", "DEJAVEC_GATEWAY_PORT"])
def test_a_taken_port_ends_the_start(tmp_path: Path, setting: str) -> None:
    """The port and the setting that changes it; nothing is started."""
    with taken_port() as port:
        run = Run(tmp_path, **{setting: str(port)})
        line = ended(run)
    assert f"127.0.0.1:{port}" in line
    assert setting in line
    assert "starting redis" not in run.printed


def test_a_port_taken_after_the_check_ends_the_start(tmp_path: Path) -> None:
    """Somebody listens there from the moment at which `up` has found it free: the engine, whichever try, reports it."""
    run = Run(tmp_path, DEJAVEC_MODEL_BUNDLE=str(write_tiny_bundle(tmp_path / "bundle")))
    run.wait_for("starting redis")
    with socket.create_server(("127.0.0.1", run.engine_port)):
        line = ended(run)
    assert f"engine cannot start: cannot listen on 127.0.0.1:{run.engine_port}" in line


@pytest.mark.parametrize("part", [".", "logs", "redis", "run", *FILES])
def test_an_unusable_data_folder_ends_the_start(tmp_path: Path, part: str) -> None:
    """A file where a folder is needed, or the reverse, is named."""
    data = tmp_path / "data"
    place = data / part
    if part in FILES:
        place.mkdir(parents=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    line = ended(Run(tmp_path, DEJAVEC_DATA_DIR=str(data)))
    assert str(place) in line
    assert "cannot be used" in line
    assert "DEJAVEC_DATA_DIR" in line


def get_ready(run: Run) -> tuple[int, dict[str, Any]]:
    """The gateway's `/ready`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/ready", timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def post(run: Run, text: str) -> tuple[int, dict[str, Any]]:
    """One text to the gateway."""
    body = json.dumps({"model": "tiny", "input": text}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{run.port}/v1/embeddings", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_engine_that_cannot_start_again_leaves_the_cache_in_service(tmp_path: Path) -> None:
    """The bundle is damaged while it serves and the engine dies: one line, `/ready` has the reason, hits go on."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with running(tmp_path, DEJAVEC_MODEL_BUNDLE=str(bundle), **CALM) as run:
        vector = run.embed()
        halve_graph(bundle)
        victim = run.child("engine")
        victim.kill()
        until(lambda: "cannot start again" in str(get_ready(run)[1]), "the reason in /ready")
        status, state = get_ready(run)
        assert status == 503
        assert str(tmp_path) not in str(state)  # the log has it
        assert f"engine cannot start: {bundle}/model.onnx" in run.printed
        assert run.embed() == vector
        status, refused = post(run, "d e f")
        assert (status, refused["error"]["code"]) == (503, "engine_unavailable")
        assert is_gone(victim)
        assert not run.named("engine")
        assert run.end(signal.SIGINT) == 0
    log = (tmp_path / ".dejavec" / "logs" / "dejavec.log").read_text()
    assert log.count("build the bundle again") == log.count("starting it again") == 1
    assert "Traceback" not in run.printed
    with running(tmp_path, DEJAVEC_MODEL_BUNDLE=str(write_tiny_bundle(tmp_path / "tiny"))) as mended:
        assert answers(mended)


def test_a_gateway_that_cannot_start_again_ends_everything(tmp_path: Path) -> None:
    """Its configuration file is damaged while it serves and it dies: nothing would answer, so all ends with why."""
    with running(tmp_path, **CALM) as run:
        (tmp_path / "dejavec.toml").write_text("max_inputs = 0\n")
        family = run.children()
        run.child("gateway").kill()
        line = ended(run)
        assert all(map(is_gone, family))
    assert "gateway cannot start: max_inputs" in line
    assert "dejavec.toml" in line
