"""Renders Helm chart and kustomizations with what there is: the commands `helm` and `kubectl`, or helm-python-sdk."""

import functools
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.install import ROOT

CHART = ROOT / "deploy" / "helm" / "dejavec"
KUSTOMIZE = ROOT / "deploy" / "kustomize"
NAME = NAMESPACE = "dejavec"
WORKLOADS = ("Deployment", "StatefulSet")

Object = dict[str, Any]


def objects(text: str) -> list[Object]:
    """The objects of a YAML stream."""
    return [one for one in yaml.safe_load_all(text) if one]


def base() -> list[Object]:
    """What the kustomize base has, read without kubectl."""
    return objects((KUSTOMIZE / "base" / "dejavec.yaml").read_text(encoding="utf-8"))


def by_name(found: list[Object]) -> dict[str, Object]:
    """Objects by kind and name."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}


def pods(found: list[Object]) -> dict[str, Object]:
    """The pod specifications of workloads, by the workload's name."""
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found if one["kind"] in WORKLOADS}


class ChartRefused(Exception):
    """Helm does not render the chart with these values."""


def rendered(values: dict[str, Any]) -> list[Object]:
    """The chart with these values. Skips the test where nothing can render it; raises ChartRefused."""
    return objects(_rendered_text(json.dumps(values)))


@functools.cache
def _rendered_text(values: str) -> str:
    if helm := shutil.which("helm"):
        command = [helm, "template", NAME, str(CHART), "--namespace", NAMESPACE, "--values", "-"]
        done = subprocess.run(command, input=values, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ChartRefused(done.stderr)
        return done.stdout
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("neither helm nor helm-python-sdk is installed")
    import helm_python

    try:
        with helm_python.Chart.load(str(CHART)) as chart:
            chart.validate_schema(json.loads(values))
            parts = chart.render(json.loads(values), name=NAME, namespace=NAMESPACE)
    except helm_python.HelmError as error:
        raise ChartRefused(str(error)) from None
    return "\n---\n".join(text for name, text in sorted(parts.items()) if name.endswith(".yaml"))


def lint_errors() -> list[str]:
    """What `helm lint` holds against the chart. Skips the test where it cannot be run."""
    if helm := shutil.which("helm"):
        done = subprocess.run([helm, "lint", str(CHART)], capture_output=True, text=True, check=False)
        return [done.stdout] if done.returncode else []
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("neither helm nor helm-python-sdk is installed")
    import helm_python

    found = helm_python.lint(str(CHART))
    return [*found["errors"], *(one["error"] for one in found["messages"] if one["severity"] > 1)]


def built(folder: Path) -> list[Object]:
    """`kubectl kustomize FOLDER`, which asks no cluster. Skips the test without kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)
