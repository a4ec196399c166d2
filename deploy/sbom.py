"""A software bill of materials, CycloneDX 1.6 as JSON, of the packages of one Python environment.

    /venv/bin/python -m deploy.sbom > /venv/sbom.cdx.json

For the Python packages of an image, with their versions, licences and dependencies. Packages of the base image's
operating system are not in it. The same environment gives the same bytes: no times, no random numbers.
"""

import json
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from typing import Any, Final

NAME: Final = "dejavec"
MAX_LICENCE_CHARACTERS: Final = 100  # some packages have the whole text where its name belongs
_SEPARATORS: Final = re.compile(r"[-_.]+")
_REQUIRED: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def bill_of(found: Iterable[Distribution]) -> dict[str, Any]:
    """The document of these distributions; dejavec itself is what the bill is of."""
    by_name = {_normal(one.metadata["Name"]): one for one in found if one.metadata["Name"]}
    components = [_component(one) for name, one in sorted(by_name.items()) if name != NAME]
    own = by_name.get(NAME)
    subject = _component(own) | {"type": "application"} if own else {"type": "application", "name": NAME}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [
            {"ref": _purl(one), "dependsOn": sorted(_purl(by_name[name]) for name in _required(one) & by_name.keys())}
            for _, one in sorted(by_name.items())
        ],
    }


def main() -> None:
    """Print the bill of the environment that runs this."""
    json.dump(bill_of(distributions()), sys.stdout, indent=1)


def _component(one: Distribution) -> dict[str, Any]:
    purl = _purl(one)
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": one.metadata["Name"],
        "version": one.version,
        "purl": purl,
    }
    if licences := _licences(one):
        found["licenses"] = licences
    return found


def _licences(one: Distribution) -> list[dict[str, Any]]:
    """The SPDX expression where the package has one, else the names that it gives."""
    metadata = one.metadata
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or [] if "License ::" in text]
    named = (metadata.get("License") or "").strip()
    if named and len(named) <= MAX_LICENCE_CHARACTERS and "\n" not in named:
        classifiers = [named]
    return [{"license": {"name": name}} for name in dict.fromkeys(classifiers)]


def _required(one: Distribution) -> set[str]:
    """Names of what it requires; those of its extras too, which count where they are installed."""
    return {_normal(match.group()) for text in one.requires or [] if (match := _REQUIRED.match(text))}


def _purl(one: Distribution) -> str:
    return f"pkg:pypi/{_normal(one.metadata['Name'])}@{one.version}"


def _normal(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


if __name__ == "__main__":
    main()
