"""Broken bodies and broken HTTP: no hang, no 5xx, no trace in a reply, and the next request is answered.

Bodies come from hypothesis (deterministic); raw HTTP from a list of what breaks servers, sent on a socket of its own.
"""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.background import in_background
from tests.gateway_client import running_gateway, until_ready
from tests.running_redis import RunningRedis
from tests.stand_in_engine import StandInEngine

FEW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PATIENCE_S = 120.0  # a hang
BODY_TIMEOUT_S = 1.0
SILENCE_S = 3.0
GOOD = b'{"model":"tiny","input":"a"}'
JSON_HEAD = b"content-type: application/json\r\n"

junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
FIELDS = ["model", "input", "inputs", "texts", "encoding_format", "dimensions", "user", "prompt_name", "truncate",
          "normalize", "truncation_direction"]  # fmt: skip


@pytest.fixture(scope="module")
def client(redis: RunningRedis) -> Iterator[httpx.Client]:
    @asynccontextmanager
    async def gateway() -> AsyncIterator[str]:
        async with (
            StandInEngine(fingerprint=secrets.token_hex(16)).running() as engine,
            running_gateway(
                engine.url,
                redis_url=redis.url,
                body_timeout_s=BODY_TIMEOUT_S,
                max_body_mb=1,
                admin_token="operator-of-these-tests",
            ) as client,
        ):
            await until_ready(client)
            yield str(client.base_url)

    with in_background(gateway()) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def assert_sane(reply: httpx.Response) -> None:
    """Answered, not with a fault of ours, in the envelope where it is an error, without a trace."""
    assert reply.status_code < 500, reply.text
    assert "Traceback" not in reply.text
    assert ".py" not in reply.text
    if reply.status_code >= 400:
        assert list(reply.json()["error"]) == ["message", "type", "param", "code"]
    assert reply.headers["x-request-id"]


def assert_alive(client: httpx.Client) -> None:
    assert client.post("/v1/embeddings", content=GOOD).status_code == 200


@FEW
@given(path=st.sampled_from(["/v1/embeddings", "/embed", "/admin/purge"]), body=st.binary(max_size=300))
def test_any_bytes_as_a_body(client: httpx.Client, path: str, body: bytes) -> None:
    """Bytes that are not JSON."""
    headers = {"content-type": "application/json", "authorization": "Bearer operator-of-these-tests"}
    assert_sane(client.post(path, content=body, headers=headers))


@FEW
@given(
    path=st.sampled_from(["/v1/embeddings", "/embed"]),
    body=junk | st.dictionaries(st.sampled_from(FIELDS), junk | st.sampled_from(["a", ["a", "b"], "tiny"]), max_size=6),
)
def test_any_json_as_a_body(client: httpx.Client, path: str, body: Any) -> None:
    """JSON of any shape, with the right names and wrong values among it; NaN and huge numbers too."""
    content = json.dumps(body).encode("utf-8", "surrogatepass")
    assert_sane(client.post(path, content=content, headers={"content-type": "application/json"}))


@FEW
@given(cut=st.integers(0, len(GOOD)), insert=st.binary(max_size=4))
def test_a_good_body_damaged(client: httpx.Client, cut: int, insert: bytes) -> None:
    """One place of a good body replaced by a few bytes."""
    body = GOOD[:cut] + insert + GOOD[cut + len(insert) :]
    assert_sane(client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"}))


@FEW
@given(
    name=st.sampled_from(
        ["x-cache-control", "x-min-fidelity", "authorization", "x-request-id", "content-type", "content-encoding"]
    ),
    value=st.binary(min_size=1, max_size=60).filter(
        lambda value: not set(value) & {0, 10, 13} and value.strip() == value
    ),
)
def test_any_bytes_as_a_header(client: httpx.Client, name: str, value: bytes) -> None:
    """Values no client should send."""
    headers = [(name.encode(), value)]
    if name != "content-type":
        headers.append((b"content-type", b"application/json"))
    try:
        reply = client.post("/v1/embeddings", content=GOOD, headers=headers)
    except httpx.ProtocolError:
        return  # httpx does not send it, or httptools ends a connection whose header is not HTTP
    if reply.headers.get("x-request-id"):
        assert_sane(reply)
    assert reply.status_code < 500


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"]),
    path=st.text(max_size=30),
)
def test_any_path_and_method(client: httpx.Client, method: str, path: str) -> None:
    """Routes that do not exist, written in any way."""
    reply = client.request(method, "/" + quote(path))
    assert reply.status_code < 500
    if method != "HEAD" and reply.status_code >= 400:
        assert_sane(reply)


def post_head(length: int | bytes, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    size = length if isinstance(length, bytes) else b"%d" % length
    return (
        b"POST /v1/embeddings HTTP/" + version + b"\r\nhost: localhost\r\n" + JSON_HEAD
        + b"content-length: " + size + b"\r\n" + more + b"\r\n"
    )  # fmt: skip


CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n" + JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n"
RAW: dict[str, bytes] = {
    "nothing at all": b"",
    "noise": b"\x00\xff\x16\x03\x01" * 50,
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200,
    "no version": b"GET /health\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.0": post_head(len(GOOD), version=b"1.0") + GOOD,
    "HTTP/9.9": post_head(len(GOOD), version=b"9.9") + GOOD,
    "absolute URI": post_head(len(GOOD)).replace(b"/v1", b"http://elsewhere.example/v1", 1) + GOOD,
    "authority form": b"CONNECT example.com:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "asterisk form": b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "no host": post_head(len(GOOD)).replace(b"host: localhost\r\n", b"") + GOOD,
    "two lengths": post_head(len(GOOD), b"content-length: 5\r\n") + GOOD,
    "two equal lengths": post_head(len(GOOD), b"content-length: %d\r\n" % len(GOOD)) + GOOD,
    "negative length": post_head(-1) + GOOD,
    "length of letters": post_head(b"abc") + GOOD,
    "length of 10^30": post_head(10**30) + GOOD,
    "length with plus": post_head(b"+28") + GOOD,
    "length and chunked": post_head(len(GOOD), b"transfer-encoding: chunked\r\n") + b"0\r\n\r\n",
    "chunk size of letters": CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"f" * 20 + b"\r\n",
    "negative chunk": CHUNKED + b"-5\r\nabc\r\n",
    "chunk without end": CHUNKED + b"5\r\nabc",
    "chunk extension of 1 MB": CHUNKED + b"1;" + b"x" * 1_000_000 + b"\r\na\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"%x\r\n%b\r\n0\r\nx-evil: 1\r\n\r\n" % (len(GOOD), GOOD),
    "header of 1 MB": post_head(len(GOOD), b"x-big: " + b"x" * 1_000_000 + b"\r\n") + GOOD,
    "10,000 headers": post_head(len(GOOD), b"x: y\r\n" * 10_000) + GOOD,
    "header without colon": post_head(len(GOOD), b"nonsense\r\n") + GOOD,
    "header with NUL": post_head(len(GOOD), b"x-a: b\x00c\r\n") + GOOD,
    "folded header": post_head(len(GOOD), b"x-a: b\r\n  c\r\n") + GOOD,
    "bare newlines": post_head(len(GOOD)).replace(b"\r\n", b"\n") + GOOD,
    "path of 100 KB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "path that is no UTF-8": b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "path with escapes": b"GET /%00%ff%2e%2e/%0d%0aset-cookie:a=b HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "upgrade to websocket": b"GET /v1/embeddings HTTP/1.1\r\nhost: localhost\r\n"
    b"upgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
    "upgrade to h2c": post_head(len(GOOD), b"upgrade: h2c\r\nconnection: upgrade\r\n") + GOOD,
    "expect 100": post_head(len(GOOD), b"expect: 100-continue\r\n") + GOOD,
    "expect nonsense": post_head(len(GOOD), b"expect: a-miracle\r\n") + GOOD,
    "pipelined": (post_head(len(GOOD)) + GOOD) * 20,
    "pipelined with noise": (post_head(len(GOOD)) + GOOD) * 3 + b"\x00noise\r\n\r\n",
    "body longer than said": post_head(len(GOOD)) + GOOD + b"GET /admin/stats",
    "headers and no body": post_head(len(GOOD)),
    "half a body": post_head(len(GOOD)) + GOOD[:7],
    "half a header": post_head(len(GOOD))[:40],
}  # fmt: skip


async def exchange(client: httpx.Client, sent: bytes) -> bytes:
    """Send, and read until the gateway closes or has been silent for longer than it waits for a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    received = b""
    try:
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            while more := await asyncio.wait_for(reader.read(65536), SILENCE_S):
                received += more
    except (ConnectionError, TimeoutError):
        pass  # closed in the middle, which is an answer, or nothing more to come
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return received


async def test_raw_http(client: httpx.Client) -> None:
    """All at the same time: answered or closed; never a 5xx, a trace, or a header the client made up."""
    answers = await asyncio.gather(*(exchange(client, sent) for sent in RAW.values()))
    statuses = {name: statuses_of(answer) for name, answer in zip(RAW, answers, strict=True)}
    assert {name: got for name, got in statuses.items() if any(status >= 500 for status in got)} == {}
    assert not [name for name, answer in zip(RAW, answers, strict=True) if b"Traceback" in answer]
    assert not [name for name, answer in zip(RAW, answers, strict=True) if b"\r\nset-cookie" in answer.lower()]
    for name in ("HTTP/1.0", "no host", "two equal lengths", "trailers", "expect 100", "body longer than said"):
        assert 200 in statuses[name] or 400 in statuses[name], name
    for name in ("headers and no body", "half a body", "chunk without end"):
        assert statuses[name] == [408], name
    for name in ("two lengths", "length and chunked", "negative length", "chunk size of letters", "negative chunk"):
        assert 200 not in statuses[name], name  # what a proxy in front could read otherwise is not read at all
    assert statuses["pipelined"] == [200] * 20
    assert_alive(client)


def statuses_of(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


async def test_pipelined_requests_are_answered_in_order(client: httpx.Client) -> None:
    """Each answer belongs to its request."""
    bodies = [json.dumps({"model": "tiny", "input": "a " * count}).encode() for count in range(1, 12)]
    received = await exchange(client, b"".join(post_head(len(body)) + body for body in bodies))
    assert [int(tokens) for tokens in re.findall(rb'"total_tokens":(\d+)', received)] == list(range(3, 14))


async def test_headers_without_a_body_are_given_up(client: httpx.Client) -> None:
    """A client that announces a body and keeps silent gets a 408, and does not hold its place for ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(post_head(len(GOOD)))
    async with asyncio.timeout(PATIENCE_S):
        assert b" 408 " in await reader.readuntil(b"\r\n")
    writer.close()


@pytest.mark.parametrize(("path", "status"), [("/v1/embeddings/", 400), ("/docs/", 404), ("//docs", 404)])
def test_nothing_redirects_to_where_the_client_says(client: httpx.Client, path: str, status: int) -> None:
    """A path with a slash too many is answered or not known, rather than sent to whatever the Host header names."""
    request = client.build_request("POST" if "v1" in path else "GET", "/", headers={"host": "evil.localhost"})
    request.extensions["target"] = path.encode()
    reply = client.send(request)
    assert reply.status_code == status
    assert_sane(reply)


def test_a_long_name_of_a_field_comes_back_short(client: httpx.Client) -> None:
    """What a client made up is not repeated to it at any length."""
    reply = client.post("/v1/embeddings", json={"model": "tiny", "input": "a", "x" * 10_000: 1})
    assert_sane(reply)
    assert len(reply.content) < 1000
