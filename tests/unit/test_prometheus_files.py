"""Alert rules, scrape configuration and dashboard: sound by promtool, complete, and of metrics that exist."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml

from deploy.install import ROOT
from deploy.metrics import rows
from gateway.metrics import exposition
from tests.prometheus import GRAFANA, PROMETHEUS, alerts, dashboard, filled_in, needs_promtool, panels, promtool
from tests.unit.test_docs import anchors

OTHERS = {"up"}  # of Prometheus itself
WATCHED = {
    "DejavecSlowRequests": "0.05",
    "DejavecLowHitRate": "0.5",
    "DejavecQueueLong": "500",
    "DejavecErrors": "0.001",
    "DejavecGpuMemory": "0.9",
    "DejavecViolations": "dejavec_semantic_alpha",
    "DejavecIndexFailures": "dejavec_semantic_index_failures",
    "DejavecEngineEjected": "ejected",
    "DejavecRedisAway": "dejavec_redis_ok",
    "DejavecEngineAway": "dejavec_engine_ready",
}
UNITS = {"s", "percentunit", "reqps", "cps", "bytes", "none"}


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    """Syntax and references, and each alert fires on what it is for."""
    status, printed = promtool(*arguments)
    assert status == 0, printed


@needs_promtool
def test_our_exposition_is_as_prometheus_wants_it() -> None:
    """Names, units and help texts, but for those that cannot change."""
    _, printed = promtool("check", "metrics", given=exposition()[0])
    assert [line for line in printed.splitlines() if line.startswith(("dejavec_", "embedding", "cache_"))] == []


def test_a_cluster_that_is_partly_away_is_told_apart() -> None:
    """`dejavec_redis_ok` is 0 then as well: the alert claims no more; runbook and console have both."""
    (rule,) = [one for one in alerts() if one["alert"] == "DejavecRedisAway"]
    assert "a server of its cluster" in rule["annotations"]["summary"]
    assert "a server of its cluster" in rule["annotations"]["description"]
    section = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8").split("## DejavecRedisAway")[1].split("## ")[0]
    page = (ROOT / "gateway" / "console" / "assets" / "live.js").read_text(encoding="utf-8")
    notes = page.split("const NOTES = {")[1].split("};")[0]
    for state in ("away", "partly away"):
        assert f"`{state}`" in section
        assert re.search(f'^  "?{state}"?: "', notes, re.MULTILINE)


def test_every_alert_is_complete() -> None:
    """A severity, what happened, and a section of the runbook of the same name."""
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["for"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (path, anchor) == ("docs/runbook.md", rule["alert"].lower())
        assert anchor in anchors(runbook)
    named = {rule["alert"].lower() for rule in alerts()}
    assert anchors(runbook) - named == {"runbook"}


def test_what_must_be_watched_is() -> None:
    """With the limits that people expect; each alert has a test of its own."""
    found = {rule["alert"]: rule["expr"] for rule in alerts()}
    assert {name: limit for name, limit in WATCHED.items() if limit not in found[name]} == {}
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == set(found)


def test_queries_name_metrics_that_exist() -> None:
    """In rules and panels; so a renamed metric fails here."""
    known = {row.name for row in rows()} | OTHERS
    queries = [rule["expr"] for rule in alerts()] + [one["expr"] for panel in panels() for one in panel["targets"]]
    names = set(re.findall(r"\b(?:dejavec_|embedding|cache_|nvidia_|process_)\w+", " ".join(queries)))
    assert {name for name in names if re.sub(r"_(bucket|sum|count)$", "", name) not in known} == set()


def test_every_panel_is_complete() -> None:
    """Title, description, unit and a legend or a single value; titles are told apart."""
    for panel in panels():
        assert panel["title"]
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [one["refId"] for one in panel["targets"]] == [chr(65 + n) for n in range(len(panel["targets"]))]
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_panels_do_not_overlap() -> None:
    """In 24 columns."""
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(one["x"] + one["w"] <= 24 and min(one["w"], one["h"]) > 0 for one in places)
    assert [(a, b) for a, b in combinations(places, 2) if _overlap(a, b)] == []
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_variables_are_used_and_defined() -> None:
    """Gateways, engines and models can be chosen; nothing else is left in a query."""
    defined = {one["name"] for one in dashboard()["templating"]["list"]}
    assert defined == {"datasource", "instance", "model", "engine"}
    text = json.dumps(panels())
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in defined)
    assert "$" not in "".join(filled_in(one["expr"]) for panel in panels() for one in panel["targets"])


def test_grafana_is_provisioned_with_this_dashboard() -> None:
    """Its data source and folder are named in files that Grafana reads at its start."""
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text("utf-8"))
    providers = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "dejavec.yml").read_text("utf-8"))
    assert [one["type"] for one in sources["datasources"]] == ["prometheus"]
    assert [one["type"] for one in providers["providers"]] == ["file"]


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
