"""A software bill of materials, CycloneDX 1.6 as JSON, of the packages of one Python environment.

    /venv/bin/python -m deploy.sbom > /venv/sbom.cdx.json

For the Python packages of an image, with their versions, licences and dependencies. Packages of the base image's
operating system are not in it. The same environment gives the same bytes: no times, no random numbers.
"""

import json
import re
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageMetadata, distributions
from typing import Any, Final

NAME: Final = "dejavec"
MAX_LICENCE_CHARACTERS: Final = 100  # some packages have the whole text where its name belongs
_SEPARATORS: Final = re.compile(r"[-_.]+")
_REQUIRED: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package, its metadata parsed once."""

    name: str
    version: str
    metadata: PackageMetadata
    requires: frozenset[str]  # normal names, those of its extras too, which count where they are installed

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{_normal(self.name)}@{self.version}"


def bill_of(found: Iterable[Distribution]) -> dict[str, Any]:
    """The document of these distributions; dejavec itself is what the bill is of."""
    packages = {_normal(one.name): one for one in map(_package, found)}
    own = packages.get(NAME)
    subject = _component(own) | {"type": "application"} if own else {"type": "application", "name": NAME}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": [_component(one) for name, one in sorted(packages.items()) if name != NAME],
        "dependencies": [
            {"ref": one.purl, "dependsOn": sorted(packages[name].purl for name in one.requires & packages.keys())}
            for _, one in sorted(packages.items())
        ],
    }


def main() -> None:
    """Print the bill of the environment that runs this."""
    json.dump(bill_of(distributions()), sys.stdout, indent=1)


def _package(one: Distribution) -> Package:
    metadata = one.metadata
    required = metadata.get_all("Requires-Dist") or []
    names = {_normal(match.group()) for text in required if (match := _REQUIRED.match(text))}
    return Package(metadata["Name"], metadata["Version"], metadata, frozenset(names))


def _component(one: Package) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
    }
    if licences := _licences(one.metadata):
        found["licenses"] = licences
    return found


def _licences(metadata: PackageMetadata) -> list[dict[str, Any]]:
    """The SPDX expression where the package has one, else the names that it gives."""
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get_all("Classifier") or [] if "License ::" in text]
    named = metadata["License"].strip() if "License" in metadata else ""
    if named and len(named) <= MAX_LICENCE_CHARACTERS and "\n" not in named:
        classifiers = [named]
    return [{"license": {"name": name}} for name in dict.fromkeys(classifiers)]


def _normal(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has enough, as `head`, ends this silently
    main()
