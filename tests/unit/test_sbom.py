"""The bill of materials of an image's packages."""

import importlib
import json
import signal
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from deploy.install import ROOT
from deploy.sbom import bill_of, main


def test_every_package_is_in_the_bill_once() -> None:
    """Name, version, package URL; what it requires and is installed; dejavec itself is what the bill is of."""
    bill = bill_of(distributions())
    purls = [component["purl"] for component in bill["components"]]
    assert len(purls) == len(set(purls))
    assert any(purl.startswith("pkg:pypi/redis@") for purl in purls)
    assert bill["metadata"]["component"]["name"] == "dejavec"
    known = {*purls, bill["metadata"]["component"]["purl"]}
    needs = {entry["ref"]: set(entry["dependsOn"]) for entry in bill["dependencies"]}
    assert needs.keys() == known
    assert set().union(*needs.values()) <= known
    (fastapi,) = [needs[ref] for ref in needs if ref.startswith("pkg:pypi/fastapi@")]
    assert any(purl.startswith("pkg:pypi/starlette@") for purl in fastapi)


def test_licences_are_expressions_or_names(tmp_path: Path) -> None:
    """An SPDX expression wins; a whole licence text in the field is no name; names come from classifiers then."""
    texts = {
        "one": "License-Expression: MIT\nLicense: whatever",
        "two": "License: BSD",
        "three": f"License: {'All rights. ' * 20}\nClassifier: License :: OSI Approved :: MIT License",
        "four": "Summary: none",
    }
    for name, text in texts.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\n{text}\n")
    bill = bill_of(distributions(path=[str(tmp_path)]))
    assert bill_of(distributions(path=[str(tmp_path)])) == bill
    assert {component["name"]: component.get("licenses") for component in bill["components"]} == {
        "one": [{"expression": "MIT"}],
        "two": [{"license": {"name": "BSD"}}],
        "three": [{"license": {"name": "MIT License"}}],
        "four": None,
    }


def test_the_document_is_valid(tmp_path: Path) -> None:
    """Against CycloneDX' own schema, where its library is installed; a few packages, since that is slow."""
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    pytest.importorskip("jsonschema", reason="cyclonedx-python-lib[json-validation] is not installed")
    schema = importlib.import_module("cyclonedx.schema").SchemaVersion.V1_6
    for name, requires in {"dejavec": "one", "one": "two; extra == 'x'", "two": "three"}.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1\nLicense-Expression: MIT\nRequires-Dist: {requires}\n"
        (folder / "METADATA").write_text(text)
    bill = bill_of(distributions(path=[str(tmp_path)]))
    assert [entry["dependsOn"] for entry in bill["dependencies"]] == [["pkg:pypi/one@1"], ["pkg:pypi/two@1"], []]
    assert validation.JsonStrictValidator(schema).validate_str(json.dumps(bill)) is None


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m deploy.sbom`."""
    main()
    assert json.loads(capsys.readouterr().out)["specVersion"] == "1.6"


def test_a_reader_that_has_enough_ends_it_silently() -> None:
    """As of `python -m deploy.sbom | head`: no trace."""
    command = [sys.executable, "-m", "deploy.sbom"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate()
    assert (process.returncode, err) == (-signal.SIGPIPE, b"")
