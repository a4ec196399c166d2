"""A real Prometheus for tests, and the files of deploy/ that it reads."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.install import ROOT
from tests.free_ports import DidNotStart, free_ports, with_other_ports

PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus, 2.42 or newer)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus, 2.42 or newer)"
)


def promtool(*arguments: str, given: bytes | None = None) -> tuple[int, str]:
    """Its exit status and what it prints, run where the rules are."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, input=given, capture_output=True, check=False, timeout=60
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def alerts() -> list[dict[str, Any]]:
    """The rules of rules.yml."""
    (group,) = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def dashboard() -> dict[str, Any]:
    """dashboard.json."""
    found: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, rows left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled_in(expression: str) -> str:
    """A panel's query with all gateways, models and engines chosen."""
    return re.sub(r"\$(instance|model|engine)\b", ".*", expression).replace("$__rate_interval", "10s")


class RunningPrometheus:
    """One that scrapes a gateway and an engine every second, with rules.yml."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of one API answer."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=120) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


@contextmanager
def running_prometheus(folder: Path, gateway_port: int, engine_port: int) -> Iterator[RunningPrometheus]:
    """Started with deploy/prometheus/prometheus.yml, its targets and intervals replaced."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    ports = {"dejavec-gateway": gateway_port, "dejavec-engine": engine_port}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    process, url = with_other_ports(lambda: _started(folder))
    try:
        yield RunningPrometheus(f"http://{url}")
    finally:
        process.terminate()
        process.wait(120)


def _started(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Its process and address, once it is ready."""
    (port,) = free_ports(1)
    url = f"127.0.0.1:{port}"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": url,
    }
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    deadline_s = time.monotonic() + 60
    while not _is_ready(url):
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            process.wait()
            raise DidNotStart(f"Prometheus did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return process, url


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{url}/-/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
