"""A page in a browser cannot use a gateway that is open to its machine alone."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.gateway_client import running_gateway, until_ready
from tests.stand_in_engine import StandInEngine

BODY = b'{"model": "tiny", "input": "a"}'
JSON = {"content-type": "application/json"}
EVIL = {"origin": "https://evil.example"}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    settings = {"cors_origins": ["https://app.example"], "allowed_hosts": ["models.lan"]}
    async with StandInEngine().running() as engine, running_gateway(engine.url, **settings) as client:
        await until_ready(client)
        yield client


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed", "/admin/purge", "/v1/nothing"])
async def test_a_page_cannot_post_without_asking(client: httpx.AsyncClient, path: str) -> None:
    """What a browser sends without a preflight, a body with no content type or with that of a form, is refused."""
    for kind in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        reply = await client.post(path, content=BODY, headers=EVIL | kind)
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
        assert reply.headers["x-request-id"]


async def test_a_page_that_may_ask_is_answered(client: httpx.AsyncClient) -> None:
    """With JSON's content type the browser asks first: allowed for `cors_origins`, and for no other."""
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    allowed = await client.options("/v1/embeddings", headers=ask | {"origin": "https://app.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    refused = await client.options("/v1/embeddings", headers=ask | EVIL)
    assert "access-control-allow-origin" not in refused.headers
    own = await client.post("/v1/embeddings", content=BODY, headers=JSON | {"origin": "https://app.example"})
    assert own.status_code == 200


async def test_a_client_without_an_origin_needs_no_content_type(client: httpx.AsyncClient) -> None:
    """Programs do not send one."""
    assert (await client.post("/v1/embeddings", content=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8080", 200), ("127.0.0.1:1", 200), ("[::1]:8080", 200), ("models.lan:80", 200),
        ("app.localhost:8080", 200), ("host.docker.internal:8080", 200), ("evil.example", 403),
        ("evil.example:8080", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("", 403),
        ("[::2]", 403), ("evil.example:127.0.0.1", 403), ("evil.example]:localhost", 403),
    ],
)  # fmt: skip
async def test_dns_rebinding(client: httpx.AsyncClient, host: str, status: int) -> None:
    """Another site's name that resolves to this machine is seen in `Host`, on every route."""
    for method, path, content in (("POST", "/v1/embeddings", BODY), ("GET", "/ready", b""), ("GET", "/docs", b"")):
        reply = await client.request(method, path, content=content, headers=JSON | {"host": host})
        assert reply.status_code == status, path


async def test_with_api_keys_any_host_will_do() -> None:
    """A page has no key; and behind a proxy the name is the proxy's."""
    keys = {"a-key-of-this-test": {"namespace": "a"}}
    async with StandInEngine().running() as engine, running_gateway(engine.url, api_keys=keys) as client:
        await until_ready(client)
        headers = JSON | {"host": "embeddings.example", "authorization": "Bearer a-key-of-this-test"}
        assert (await client.post("/v1/embeddings", content=BODY, headers=headers)).status_code == 200
