"""A real Prometheus scrapes the running system: every panel has data, rules are evaluated, an alert fires."""

import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.metrics import rows
from engine.build.static_embedding.quick import StaticEmbedding
from engine.bundle import STATIC_EMBEDDING_FILE, sha256_of
from tests.e2e.stack import Run, running
from tests.integration.engine_under_test import DIMENSIONS, VOCABULARY, write_tiny_bundle
from tests.prometheus import (
    RunningPrometheus,
    alerts,
    filled_in,
    needs_prometheus,
    needs_promtool,
    panels,
    promtool,
    running_prometheus,
)

PATIENCE_S = 120.0
KEY = "key-of-namespace-docs"
SETTINGS = {
    "DEJAVEC_GATEWAY_WORKERS": "2",
    "DEJAVEC_SEMANTIC_MODE": "on",
    "DEJAVEC_VERIFY_SHARE": "1",
    "DEJAVEC_MIN_TEXT_LENGTH": "1",
    "DEJAVEC_SEMANTIC_TIMEOUT_MS": "2000",
    "DEJAVEC_REDIS_TIMEOUT_MS": "2000",
    "DEJAVEC_LOG_FORMAT": "json",
    "DEJAVEC_API_KEYS": json.dumps({KEY: {"namespace": "docs"}}),
}
WORDS = VOCABULARY[2:]


def write_bundle(folder: Path) -> Path:
    """The tiny model, with a static embedding that is exact."""
    table = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSIONS)).astype(np.float32)
    content = StaticEmbedding(table, np.eye(DIMENSIONS, dtype=np.float32), {"margin": 0.01}).to_bytes()
    folder.mkdir()
    (folder / "embedding").write_bytes(content)
    bundle = write_tiny_bundle(folder, static_embedding_sha256=sha256_of(folder / "embedding"))
    (folder / "embedding").rename(bundle / STATIC_EMBEDDING_FILE)
    return bundle


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, RunningPrometheus]]:
    folder = tmp_path_factory.mktemp("system")
    bundle = write_bundle(folder / "bundle")
    with (
        running(folder, DEJAVEC_MODEL_BUNDLE=str(bundle), **SETTINGS) as run,
        running_prometheus(folder, run.port, run.engine_port) as prometheus,
    ):
        yield run, prometheus


def ask(run: Run, texts: list[str], key: str = KEY) -> int:
    """The status of one request for vectors."""
    body = json.dumps({"model": "tiny", "input": texts}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"http://127.0.0.1:{run.port}/v1/embeddings", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def send_some(run: Run, texts: Iterator[tuple[str, ...]]) -> None:
    """Texts of all kinds: seen before, near to one, new, too long; and one with a wrong key."""
    new = " ".join(next(texts))
    assert ask(run, [new, "a b c d e f", f"{new} {new}", f"{new} a"]) == 200
    assert ask(run, [" ".join(["a"] * 30), f"{new} b"]) == 200
    assert ask(run, ["a"], "a-key-that-is-not-known") == 401


def text_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=120) as reply:
        content: bytes = reply.read()
        return content.decode()


@needs_prometheus
def test_every_panel_has_data(system: tuple[Run, RunningPrometheus]) -> None:
    """But those that say when they are empty; and no query is refused."""
    run, prometheus = system
    texts = itertools.permutations(WORDS, 8)
    missing = {(panel["title"], one["expr"]) for panel in panels() for one in panel["targets"]}
    may_be_empty = {panel["title"] for panel in panels() if "Empty w" in panel["description"]}
    known = {
        "GPU memory", "State of engines", "Look-ups that failed", "Values not gone by",
    }  # fmt: skip
    assert known < may_be_empty
    deadline_s = time.monotonic() + PATIENCE_S
    while {title for title, _ in missing} - known:
        assert time.monotonic() < deadline_s, missing
        send_some(run, texts)
        missing = {(title, query) for title, query in missing if not prometheus.query(filled_in(query))}
        time.sleep(0.2)


@needs_prometheus
def test_rules_are_evaluated_and_an_alert_comes_up(system: tuple[Run, RunningPrometheus]) -> None:
    """Prometheus has them all, finds no fault in any, and one that is due is pending."""
    run, prometheus = system
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        (group,) = prometheus.get("rules")["groups"]
        if all(rule["health"] == "ok" for rule in group["rules"]):
            break
        assert time.monotonic() < deadline_s, group
        time.sleep(0.2)
    assert {rule["name"] for rule in group["rules"]} == {rule["alert"] for rule in alerts()}
    while not prometheus.query('ALERTS{alertname="DejavecWrongKeys"}'):
        assert time.monotonic() < deadline_s
        for _ in range(5):
            ask(run, ["a"], "a-key-that-is-not-known")


@needs_promtool
def test_what_is_exposed_is_documented(system: tuple[Run, RunningPrometheus]) -> None:
    """Every name of ours that gateway and engine show is in the table, and promtool finds no fault in them."""
    run, _ = system
    documented = {row.name.removesuffix("_total") for row in rows()}
    for port in (run.port, run.engine_port):
        exposed = text_of(f"http://127.0.0.1:{port}/metrics")
        families = [
            line.split()[2].removesuffix("_total") for line in exposed.splitlines() if line.startswith("# TYPE")
        ]
        ours = {name for name in families if not name.startswith(("process_", "python_")) and "_created" not in name}
        assert ours <= documented
        assert promtool("check", "metrics", given=exposed.encode()) == (0, "")


@needs_prometheus
def test_logs_are_json_by_setting(system: tuple[Run, RunningPrometheus]) -> None:
    """`log_format = "json"`: every line of engine and gateway, workers included, is an object."""
    run, _ = system
    for process, logger in (("engine", "engine.serving"), ("gateway", "dejavec.gateway")):
        lines = (run.home / "logs" / f"{process}.log").read_text().splitlines()
        entries = [json.loads(line[line.index("{") :]) for line in lines]
        assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
        assert logger in {entry["logger"] for entry in entries}
