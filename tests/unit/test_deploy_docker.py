"""The container files name things that exist, and what they start is closed as far as it can be.

Whether they run is not tested here: that needs an engine for containers, see docs/deploy.md.
"""

import importlib.util
import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from deploy.config import settings_classes
from deploy.install import ROOT

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SETTINGS = {f"DEJAVEC_{name.upper()}" for _, cls in settings_classes() for name in cls.model_fields}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = COMPOSE["services"]
    return found


def stages() -> dict[str, str]:
    """Each stage's name and text."""
    parts = re.split(r"^FROM \S+ AS (\w+)\n", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_compose_has_its_services(services: dict[str, dict[str, Any]]) -> None:
    """Gateway, engine, Redis, Prometheus, Grafana; ports are open on this machine alone, engine and Redis have none."""
    assert set(services) == {"gateway", "engine", "redis", "prometheus", "grafana"}
    assert {name for name, service in services.items() if "ports" in service} == {"gateway", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert services["engine"]["networks"] == services["redis"]["networks"] == ["back"]
    assert COMPOSE["networks"]["back"] == {"internal": True}


def test_compose_starts_nothing_with_more_rights_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    """No capabilities, no new privileges, a root file system that is read-only, a limit on memory and processes."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["pids_limit"], name
        assert service["mem_limit"], name


def test_compose_mounts_volumes_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """Named ones are declared and used; folders of the repository are mounted read-only, Grafana's and Prometheus'."""
    sources = [volume.split(":") for service in services.values() for volume in service.get("volumes", [])]
    named = {parts[0] for parts in sources if not parts[0].startswith(".")}
    assert named == set(COMPOSE["volumes"])
    files = {parts[0]: parts[-1] for parts in sources if parts[0].startswith(".")}
    assert {path.split("/")[2] for path in files} == {"prometheus", "grafana"}
    assert set(files.values()) == {"ro"}


def test_compose_fits_its_specification() -> None:
    """As a parser of the Compose specification reads it, once YAML has merged what several services share."""
    if importlib.util.find_spec("compose_spec") is None:
        pytest.skip("compose-spec is not installed")
    import compose_spec

    without_digests = re.sub(r"@sha256:[0-9a-f]{64}", "", json.dumps(COMPOSE))  # it knows no tag and digest together
    read = compose_spec.PyCompose.from_json(without_digests)
    read.validate()
    assert set(read.service_names()) == set(COMPOSE["services"])


def test_compose_builds_stages_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """Each build target is a stage of the Dockerfile it names."""
    for service in services.values():
        if build := service.get("build"):
            assert (ROOT / build["dockerfile"]).is_file()
            assert build["target"] in stages()


def test_variables_are_settings(services: dict[str, dict[str, Any]]) -> None:
    """Every DEJAVEC_ variable in a container is one that a process reads."""
    named = {name for service in services.values() for name in service.get("environment", {})}
    named = {name for name in named if not name.startswith("GF_")}
    named |= set(re.findall(r"\b(DEJAVEC_\w+)=", DOCKERFILE))
    assert named <= SETTINGS


def test_images_do_not_run_as_root_and_say_whether_they_are_well() -> None:
    """Each final stage comes from `runtime`, whose last word on the user is a number that is not 0."""
    assert re.findall(r"^USER (\S+)", stages()["runtime"], re.MULTILINE)[-1] not in {"0", "root"}
    for name in ("gateway", "engine"):
        assert f"FROM runtime AS {name}" in DOCKERFILE
        assert "USER" not in stages()[name]
        assert "HEALTHCHECK" in stages()[name]


def test_the_wheel_is_built_from_every_package() -> None:
    """A package of pyproject.toml that is not copied would be missing in both images."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(re.findall(r"^COPY (\w+) \1$", stages()["wheel"], re.MULTILINE))


@pytest.mark.parametrize("role", ["gateway", "engine"])
def test_an_image_carries_the_packages_of_its_role_alone(role: str) -> None:
    """Its environment comes from a stage that installs this role's pins and the wheel without dependencies, by another
    environment's pip, and leaves their bill of materials in it.
    """
    assert "venv --without-pip /venv" in stages()["venv"]
    assert re.findall(r"^COPY --from=(\w+) /venv", stages()[role], re.MULTILINE) == [f"{role}_packages"]
    packages = stages()[f"{role}_packages"]
    assert re.findall(r"-r (\S+)", packages) == [f"{role}.txt"]
    assert f"COPY deploy/requirements/{role}.txt ./" in packages
    assert "--no-deps /wheel/*.whl" in packages
    assert "-m deploy.sbom > /venv/sbom.cdx.json" in packages


def test_what_is_copied_exists_and_is_let_through() -> None:
    """Sources of COPY are in the repository and not kept out by .dockerignore, which lets whole folders through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copies for source in line.split()}
    assert sources
    assert {source.split("/")[0] for source in sources} <= let_through
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_image_is_named_by_digest(services: dict[str, dict[str, Any]]) -> None:
    """A tag can be moved to other bytes; a digest cannot. A stage of the file itself needs none."""
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images = [re.sub(r"\$\{(\w+)\}", lambda name: arguments[name[1]], base) for base in bases if base not in stages()]
    images += [source for source in re.findall(r"--from=(\S+)", DOCKERFILE) if source not in stages()]
    images += [service["image"] for service in services.values() if "image" in service]
    assert len(images) >= 3
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)] == []
    assert {service.get("image") is None for service in services.values() if "build" in service} == {True}


def test_no_other_container_file_is_without_a_check() -> None:
    """These are all the files that name images."""
    found = {*ROOT.glob("**/*Dockerfile*"), *ROOT.glob("*compose*.y*ml"), *ROOT.glob("deploy/**/*compose*.y*ml")}
    here = {path.relative_to(ROOT).as_posix() for path in found if ".venv" not in path.parts}
    assert here == {"deploy/docker/Dockerfile", "docker-compose.yml"}
