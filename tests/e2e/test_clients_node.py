"""Clients for Node, unmodified; see `test_clients`. Each sends its key in its own header.

Skipped where there is no Node, or its packages cannot be had.
"""

import json
from typing import Any

import pytest

from tests.e2e.node_clients import SOURCES, printed_by
from tests.e2e.plain_http import API_KEY, MODEL, TEXTS, assert_same, plain

NAMES = [
    *("fetch", "openai", "openai, floats", "openai, Azure", "AI SDK", "AI SDK, Azure", "AI SDK, Azure by deployment"),
    *("LangChain", "LangChain, Azure", "LangChain, Ollama", "Ollama", "Hugging Face"),
]

pytestmark = pytest.mark.usefixtures("quiet_client")


@pytest.fixture(scope="module")
def printed(keyed_root: str) -> dict[str, dict[str, Any]]:
    """What each client got, by name; one process for all of them."""
    lines = printed_by((SOURCES / "clients.mjs").read_text(), keyed_root, API_KEY, MODEL, json.dumps(TEXTS))
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", NAMES)
def test_vectors(root: str, printed: dict[str, dict[str, Any]], name: str) -> None:
    """The same vectors in the same order as by plain HTTP."""
    assert "error" not in printed[name], printed[name]["error"]
    assert_same(printed[name]["result"], plain(root, TEXTS))


def test_openai_errors_are_its_own(printed: dict[str, dict[str, Any]]) -> None:
    """A refusal becomes the package's typed error, with our code and param, and the request's id."""
    assert printed["openai, errors"]["result"] == {
        "name": "NotFoundError",
        "status": 404,
        "code": "model_not_found",
        "param": "model",
        "hasId": True,
    }


def test_the_lock_file_names_no_registry() -> None:
    """Packages come from whichever registry the machine is set up for."""
    packages = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)
