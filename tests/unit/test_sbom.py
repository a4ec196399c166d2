"""The bill of materials of an image's packages."""

import importlib.util
import json
from importlib.metadata import distributions
from pathlib import Path

import pytest

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


def test_the_document_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    """Against CycloneDX' own schema, where its library is installed."""
    main()
    first = capsys.readouterr().out
    assert json.loads(first)["specVersion"] == "1.6"
    if importlib.util.find_spec("cyclonedx") is None:
        pytest.skip("cyclonedx-python-lib is not installed")
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(first) is None
    except MissingOptionalDependencyException:
        pytest.skip("cyclonedx-python-lib[json-validation] is not installed")
