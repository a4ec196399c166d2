"""The metrics: their table in the documentation, their buckets, and gauges of workers that have ended."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import Histogram

from cache import metrics as of_cache
from common.latency_buckets import LATENCY_BUCKETS_S
from deploy.install import ROOT
from deploy.metrics import Row, metrics, rows, with_table
from engine.metrics import EngineMetrics
from gateway import metrics as of_gateway
from gateway.metrics_storage import FILE_BYTES, VARIABLE, drop_gauges_of_ended

FAMILIAR = {
    "embedding_duration_seconds": "histogram",
    "embeddings_requests_total": "counter",
    "embeddings_latency_seconds": "histogram",
    "cache_requests_total": "counter",
    "cache_hits_total": "counter",
    "embedding_batch_queue_size": "gauge",
    "process_resident_memory_bytes": "gauge",
    "nvidia_gpu_memory_used_bytes": "gauge",
    "nvidia_gpu_memory_total_bytes": "gauge",
}


def test_the_table_is_current() -> None:
    """docs/metrics.md has what `dejavec metrics` prints; `make docs` writes it."""
    document = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert with_table(document) == document
    assert CliRunner().invoke(metrics).output.strip() in document


def test_familiar_names_stay_and_all_others_carry_ours() -> None:
    """Existing alerts go on; the two that make the hit rate have no labels."""
    found = {row.name: row for row in rows()}
    assert {name: found[name].type for name in FAMILIAR} == FAMILIAR
    assert [name for name in found if name not in FAMILIAR and not name.startswith("dejavec_")] == []
    assert (found["cache_hits_total"].labels, found["cache_requests_total"].labels) == ("", "")


def test_every_metric_has_a_meaning_and_a_unit_where_it_has_one() -> None:
    """The unit is the one in its name."""
    assert [row.name for row in rows() if not row.meaning] == []
    units = {row.name: row.unit for row in rows()}
    assert units["dejavec_stage_seconds"] == "seconds"
    assert units["dejavec_redis_memory_max_bytes"] == "bytes"
    assert units["dejavec_engine_tokens_per_second"] == "tokens/second"
    assert Row("gateway", "dejavec_redis_ok", "gauge", "", "").unit == ""


def test_all_latency_histograms_have_the_same_fine_buckets() -> None:
    """From 1 to 50 ms none ends at more than 1.7 times the one before; 50 ms, the alert's limit, is one of them."""
    fine = [bound for bound in LATENCY_BUCKETS_S if 0.001 <= bound <= 0.05]
    assert (fine[0], fine[-1]) == (0.001, 0.05)
    assert max(after / before for before, after in pairwise(fine)) < 1.7
    known = [*vars(of_gateway).values(), *vars(of_cache).values(), *vars(EngineMetrics()).values()]
    bounds = {one._name: one._kwargs["buckets"] for one in known if isinstance(one, Histogram)}
    assert {name for name, found in bounds.items() if tuple(found) != LATENCY_BUCKETS_S} == {
        "dejavec_engine_batch_rows"
    }
    assert len(bounds) >= 8


def test_gauges_of_a_worker_that_has_ended_go_and_its_counts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died while Redis was away must not report that for ever."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for number in (ended.pid, os.getpid()):
        for kind in FILE_BYTES:
            (tmp_path / f"{kind}_{number}.db").touch()
    drop_gauges_of_ended()
    left = {file.name for file in tmp_path.iterdir()}
    assert {name for name in left if str(ended.pid) in name} == {
        f"{kind}_{ended.pid}.db" for kind in ("counter", "histogram")
    }
    assert len(left) == 2 + len(FILE_BYTES)
