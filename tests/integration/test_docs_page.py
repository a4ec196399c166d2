"""`/docs`: the page and all it loads come from the gateway, and it works without another host."""

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.docs_page import ASSETS, MEDIA_TYPES, POLICY, SHA256
from tests.browser import Chromium
from tests.gateway_client import running_gateway
from tests.integration.test_gateway_process import running


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway whose engine is nowhere."""
    async with running_gateway("http://127.0.0.1:1") as client:
        yield client


async def test_the_page_loads_from_the_gateway_alone(client: httpx.AsyncClient) -> None:
    """Every address in it is relative and answers, with the media type that `nosniff` needs; no script stands in it."""
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"] == POLICY
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) == 5
    assert not any("//" in address or address.startswith("/") for address in addresses)
    assert re.findall(r"<script(?![^>]* src=)", page.text) == []
    for address in addresses:
        assert (await client.get(f"/{address}")).status_code == 200
    for name, media_type in MEDIA_TYPES.items():
        reply = await client.get(f"/docs/{name}")
        assert reply.headers["content-type"].startswith(media_type)
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_only_the_files_of_the_page_are_served(client: httpx.AsyncClient) -> None:
    """Not what lies beside them, and nothing by another way to spell a path."""
    for path in ("/docs/none.js", "/docs/LICENSE", "/docs/..%2f..%2fapp.py", "/docs/"):
        assert (await client.get(path)).status_code == 404, path


def test_foreign_files_are_those_that_were_recorded() -> None:
    """What came from swagger-ui-dist is unchanged, and its licence stands beside it."""
    assert {name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() for name in SHA256} == SHA256
    assert {path.name for path in ASSETS.iterdir()} == {*SHA256, "index.html", "start.js"}


def test_the_page_works_offline(chromium: Chromium, tmp_path: Path) -> None:
    """In a browser without a network: all routes are shown, one opens, nothing fails, no other host is asked."""
    with running(tmp_path, tmp_path / "log") as gateway, chromium.page() as watched:
        watched.page.goto(f"http://127.0.0.1:{gateway.port}/docs")
        watched.page.get_by_text("/v1/embeddings", exact=True).first.wait_for()
        watched.page.get_by_text("/v1/embeddings", exact=True).first.click()
        watched.page.get_by_text("Try it out").first.wait_for()
        assert watched.other_hosts == []
        assert watched.problems == []
