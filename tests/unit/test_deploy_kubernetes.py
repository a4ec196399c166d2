"""The Helm chart and the kustomize base: valid, equal, and as restricted as a cluster may demand.

No cluster is needed. What needs a program that is not installed is skipped; the base is always checked.
"""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.config import settings_classes
from deploy.install import ROOT
from gateway.engines.addresses import RESOLVE_EVERY_S
from gateway.settings import GatewaySettings
from tests.kubernetes import (
    CHART,
    KUSTOMIZE,
    ChartRefused,
    Object,
    base,
    built,
    by_name,
    lint_errors,
    pods,
    rendered,
)

KUBERNETES = "1.33"  # whose schemas are used
SETTINGS = {f"DEJAVEC_{name.upper()}" for _, cls in settings_classes() for name in cls.model_fields} | {
    "DEJAVEC_CONFIG"
}
RESTRICTED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
HPA: dict[str, Any] = {"kind": "hpa", "minReplicas": 2, "maxReplicas": 4, "queuedTokens": 100}
KEDA: dict[str, Any] = {**HPA, "kind": "keda", "prometheus": "http://prometheus:9090"}
LIMITS: dict[str, Any] = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}
MODEL: dict[str, Any] = {"name": "first/Model", "id": "first", "replicas": 2, "resources": LIMITS}
SEVERAL: dict[str, Any] = {
    "secretSettings": True,
    "settings": {
        "gateway": {"cors_origins": ["https://a.example"], "strict_fields": True},
        "engine": {"device": "cpu"},
    },
    "gateway": {"autoscaling": {"enabled": True}, "image": {"repository": "r/gateway", "digest": f"sha256:{'a' * 64}"}},
    "models": [
        {**MODEL, "aliases": ["one"], "fingerprint": "ab" * 16, "bundle": {"image": "r/b:1"}, "autoscaling": HPA},
        {**MODEL, "name": "b", "id": "b", "bundle": {"existingClaim": "c", "subPath": "s"}, "autoscaling": KEDA},
    ],
}
VALUES: dict[str, dict[str, Any]] = {"default": {}, "several": SEVERAL, "own Redis": {"redis": {"enabled": False}}}


def containers(pod: Object) -> list[Object]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def assert_restricted(found: list[Object]) -> None:
    """Pod Security Standards, level `restricted`; a root file system that is read-only, and limits, besides."""
    assert pods(found)
    for name, pod in pods(found).items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", name
        assert pod["automountServiceAccountToken"] is False, name
        # A Service called dejavec-gateway would set DEJAVEC_GATEWAY_PORT, to a URL, in each pod that starts after it.
        assert pod["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}} <= RESTRICTED_VOLUMES, name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
        for container in pod["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name


def assert_wired(found: list[Object]) -> None:
    """Budgets, services and policies select pods that there are; named secrets are one; variables are settings."""
    labels = [
        one["spec"]["template"]["metadata"]["labels"] for one in found if one["kind"] in {"Deployment", "StatefulSet"}
    ]
    for one in found:
        spec = one["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", selector) if one["kind"] != "HorizontalPodAutoscaler" else {}
        if one["kind"] in {"Service", "PodDisruptionBudget", "NetworkPolicy"}:
            assert any(wanted.items() <= have.items() for have in labels), one["metadata"]["name"]
        if "scaleTargetRef" in spec:
            target = by_name(found)[f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"]
            assert "replicas" not in target["spec"], "a number that each update would put back"
    for pod in pods(found).values():
        variables = {entry["name"]: entry for container in containers(pod) for entry in container.get("env", [])}
        assert variables.keys() <= SETTINGS
        for name in {"DEJAVEC_KEY_SECRET", "DEJAVEC_REDIS_URL", "DEJAVEC_ADMIN_TOKEN"} & variables.keys():
            assert "secretKeyRef" in variables[name]["valueFrom"]
            assert "value" not in variables[name]
        for container in containers(pod):
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claims = {one["metadata"]["name"] for spec in found for one in spec["spec"].get("volumeClaimTemplates", [])}
            assert mounted <= {volume["name"] for volume in pod["volumes"]} | claims


def test_the_base_is_restricted_and_wired() -> None:
    """What kubectl would apply, read as it lies in the repository."""
    assert_restricted(base())
    assert_wired(base())


def test_every_workload_has_its_guards() -> None:
    """Gateway and engines: a budget for disruptions and a network policy; engines and Redis let only the gateway in."""
    found = by_name(base())
    for name in ("gateway", "engine-minilm"):
        assert f"PodDisruptionBudget/dejavec-{name}" in found
    for name in ("gateway", "engine", "redis"):
        policy = found[f"NetworkPolicy/dejavec-{name}"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert found["NetworkPolicy/dejavec-engine"]["spec"]["egress"] == []
    (peer,) = found["NetworkPolicy/dejavec-redis"]["spec"]["ingress"]
    assert peer["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"


def test_the_gateway_finds_every_engine() -> None:
    """The service of engines is headless, and the gateway's setting names it; the setting is a valid one. In a rolling
    change the next engine goes when gateways have looked the new one's address up."""
    found = by_name(base())
    assert found["StatefulSet/dejavec-engine-minilm"]["spec"]["minReadySeconds"] > RESOLVE_EVERY_S
    assert found["Service/dejavec-engine-minilm"]["spec"]["clusterIP"] == "None"
    assert found["StatefulSet/dejavec-engine-minilm"]["spec"]["serviceName"] == "dejavec-engine-minilm"
    env = pods(base())["dejavec-gateway"]["containers"][0]["env"]
    engines = json.loads(next(entry["value"] for entry in env if entry["name"] == "DEJAVEC_ENGINES"))
    (url,) = engines["all-MiniLM-L6-v2"]["urls"]
    assert url == "dns+http://dejavec-engine-minilm:8081"
    assert "all-MiniLM-L6-v2" in GatewaySettings(engines=engines).models


def test_what_scales_goes_by_a_metric_that_there_is() -> None:
    """The HPA and KEDA's query name a gauge of the engine."""
    hpa = yaml.safe_load((KUSTOMIZE / "components" / "hpa" / "hpa.yaml").read_text("utf-8"))
    scaled = yaml.safe_load((KUSTOMIZE / "components" / "keda" / "scaled-object.yaml").read_text("utf-8"))
    name = hpa["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert name in scaled["spec"]["triggers"][0]["metadata"]["query"]
    source = (ROOT / "engine" / "metrics.py").read_text(encoding="utf-8")
    assert f'"{name}"' in source or f'prefix + "{name.removeprefix("dejavec_engine_")}"' in source
    assert '"dejavec_engine_"' in source


def test_foreign_images_are_named_by_digest() -> None:
    """A tag can be moved to other bytes. Our own images have none before somebody has built them."""
    images = {container["image"] for pod in pods(base()).values() for container in containers(pod)}
    foreign = {image for image in images if not image.startswith("dejavec-")}
    assert foreign
    assert [image for image in foreign if not re.search(r"@sha256:[0-9a-f]{64}$", image)] == []


def test_the_chart_is_of_this_version() -> None:
    """Version and appVersion are the package's; the base names its images by it."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert (chart["version"], chart["appVersion"]) == (version[1], version[1])
    assert pods(base())["dejavec-gateway"]["containers"][0]["image"] == f"dejavec-gateway:{version[1]}"


def test_helm_has_nothing_against_the_chart() -> None:
    """`helm lint`."""
    assert lint_errors() == []


def test_the_base_is_the_chart_with_its_defaults() -> None:
    """One source: the kustomize base is what `helm template` renders."""
    assert by_name(rendered({})) == by_name(base())


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_form_of_the_chart_is_restricted_and_wired(values: dict[str, Any]) -> None:
    """Several models with autoscaling, bundles from an image and a claim, a settings file; no Redis of its own."""
    found = rendered(values)
    assert_restricted(found)
    assert_wired(found)


def test_the_chart_knows_several_models() -> None:
    """Each has its engines, in the order of the values: the first answers requests that name no model."""
    found = by_name(rendered(SEVERAL))
    assert "HorizontalPodAutoscaler/dejavec-engine-first" in found
    assert "ScaledObject/dejavec-engine-b" in found
    gateway = pods(list(found.values()))["dejavec-gateway"]["containers"][0]
    assert gateway["image"] == f"r/gateway@sha256:{'a' * 64}"
    variables = {entry["name"]: entry.get("value") for entry in gateway["env"]}
    assert json.loads(variables["DEJAVEC_CORS_ORIGINS"]) == ["https://a.example"]
    assert variables["DEJAVEC_STRICT_FIELDS"] == "true"
    assert json.loads(variables["DEJAVEC_ENGINES"])["first/Model"]["aliases"] == ["one"]
    engine = pods(list(found.values()))["dejavec-engine-first"]
    assert engine["initContainers"][0]["image"] == "r/b:1"
    assert {"name": "DEJAVEC_MODEL_BUNDLE", "value": "/model"} in engine["containers"][0]["env"]


@pytest.mark.parametrize(
    "values",
    [
        {"gatewy": {}},
        {"models": []},
        {"models": [{**MODEL, "id": "Not_A_Name"}]},
        {"models": [{**MODEL, "autoscaling": {"kind": "sometimes"}}]},
        {"gateway": {"image": {"repository": "r", "digest": "sha256:short"}}},
        {"redis": {"maxmemory": "lots"}},
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    """A misspelt or impossible value is an error and not ignored."""
    with pytest.raises(ChartRefused):
        rendered(values)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_objects_fit_the_schemas_of_kubernetes(values: dict[str, Any]) -> None:
    """Strictly: no field that Kubernetes does not know. KEDA's own object has no schema here."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed")
    import kubernetes_validate

    for one in rendered(values):
        if not one["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["base", "overlays/example"])
def test_kustomizations_can_be_built(name: str) -> None:
    """`kubectl kustomize`, which asks no cluster; what comes out is as restricted as the base."""
    found = built(KUSTOMIZE / name)
    named = [one for one in found if one["kind"] != "Namespace"]
    assert_restricted(named)
    assert_wired(named)
    assert by_name(base()).keys() <= by_name(found).keys()


def test_the_other_component_can_be_built(tmp_path: Path) -> None:
    """KEDA's in place of the HPA."""
    place = Path("../" * (len(tmp_path.resolve().parts) - 1)) / KUSTOMIZE.resolve().relative_to("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{place / 'base'}]\ncomponents: [{place / 'components' / 'keda'}]\n"
    )
    assert_wired(built(tmp_path))
