"""The container files name things that exist. Whether they run is not tested here: that needs a Docker engine."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from deploy.config import settings_classes
from deploy.install import ROOT

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = {f"DEJAVEC_{name.upper()}" for _, cls in settings_classes() for name in cls.model_fields}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def stages() -> dict[str, str]:
    """Each stage's name and text."""
    parts = re.split(r"^FROM \S+ AS (\w+)\n", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_compose_has_the_three_services(services: dict[str, dict[str, Any]]) -> None:
    """Gateway, engine, Redis; only the gateway has a port, on this machine alone."""
    assert set(services) == {"gateway", "engine", "redis"}
    assert {name for name, service in services.items() if "ports" in service} == {"gateway"}
    assert all(port.startswith("127.0.0.1:") for port in services["gateway"]["ports"])


def test_compose_builds_stages_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """Each build target is a stage of the Dockerfile it names."""
    for service in services.values():
        if build := service.get("build"):
            assert (ROOT / build["dockerfile"]).is_file()
            assert build["target"] in stages()


def test_variables_are_settings(services: dict[str, dict[str, Any]]) -> None:
    """Every DEJAVEC_ variable in a container is one that a process reads."""
    named = {name for service in services.values() for name in service.get("environment", {})}
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
    """Its environment comes from a stage that installs this role's pins and the wheel without dependencies."""
    assert re.findall(r"^COPY --from=(\w+) /venv", stages()[role], re.MULTILINE) == [f"{role}_packages"]
    packages = stages()[f"{role}_packages"]
    assert re.findall(r"-r (\S+)", packages) == [f"{role}.txt"]
    assert f"COPY deploy/requirements/{role}.txt ./" in packages
    assert "--no-deps /wheel/*.whl" in packages


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
