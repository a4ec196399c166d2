"""HTTP clients of other languages, unmodified; see `test_clients`.

Java and curl offer to go over to HTTP/2, which is not taken; curl compresses and is answered in kind.
"""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.plain_http import MODEL, TEXTS, assert_same, plain, vectors_of
from tests.e2e.stack import Run
from tests.raw_http import talk

BODY = json.dumps({"model": MODEL, "input": TEXTS})
CLIENTS = Path(__file__).parent / "clients"
# What the HttpClient of Java 17.0.15 sends for its first request, recorded; only host, length and path are filled in.
JAVA_HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\n"
    b"Host: 127.0.0.1:%d\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\nContent-Type: application/json\r\n\r\n"
)

pytestmark = pytest.mark.usefixtures("quiet_client")


def output_of(command: list[str]) -> str:
    """What the command prints; its errors are the test's."""
    done = subprocess.run(command, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture
def curl() -> list[str]:
    if (path := shutil.which("curl")) is None:
        pytest.skip("curl is not installed here")
    return [path, "--no-progress-meter", "--header", "content-type: application/json", "--max-time", "60"]


def test_java(root: str, base_url: str) -> None:
    """The JDK's client: first request, chunked body on the same connection, four requests at once."""
    if (java := shutil.which("java")) is None:
        pytest.skip("Java is not installed here; what it sends is replayed in the next test")
    printed = output_of([java, "-Xshare:auto", str(CLIENTS / "Client.java"), f"{base_url}/embeddings", BODY])
    expected = plain(root, TEXTS)
    replies = printed.splitlines()
    assert len(replies) == 6
    for reply in replies:
        status, _, body = reply.partition(" ")
        assert status == "200"
        assert_same(vectors_of(body), expected)


async def test_what_java_sends(root: str, stack: Run) -> None:
    """Its recorded bytes, head and body apart, three times on one connection, as where there is no Java."""
    body = BODY.encode()
    head = JAVA_HEAD % (len(body), stack.port)
    answers = await talk(stack.port, [head, body] * 3)
    assert answers.statuses == [200] * 3
    assert not answers.is_closed
    expected = plain(root, TEXTS)
    for reply in answers.raw.split(b"HTTP/1.1 200 OK")[1:]:
        body = reply.partition(b"\r\n\r\n")[2]
        assert_same(vectors_of(body.partition(b"HTTP/1.1 ")[0]), expected)


@pytest.mark.parametrize("options", [["--http2"], ["--http1.0"], ["--http2", "--header", "transfer-encoding: chunked"]])
def test_curl(root: str, base_url: str, curl: list[str], options: list[str]) -> None:
    """Its offer of HTTP/2 on an unencrypted connection is passed over, with whichever framing of the body."""
    printed = output_of([*curl, *options, "--data", BODY, f"{base_url}/embeddings"])
    assert_same(vectors_of(printed), plain(root, TEXTS))


def test_curl_keeps_its_connection_after_an_offer_of_http2(base_url: str, curl: list[str]) -> None:
    """A second request goes over the connection that the first has opened."""
    url = f"{base_url}/embeddings"
    twice = ["--http2", "--data", BODY, "--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\n"]
    assert output_of([*curl, *twice, url, "--next", *curl[1:], *twice, url]).split() == ["200", "1", "200", "0"]


def test_curl_compressed(root: str, base_url: str, curl: list[str], tmp_path: Path) -> None:
    """A large reply is compressed for `--compressed`, and expands to the bytes that come without."""
    many = [f"chunk {number}" for number in range(40)]
    body = json.dumps({"model": MODEL, "input": many})
    head, reply = tmp_path / "head", tmp_path / "reply"
    command = [*curl, "--data", body, "--dump-header", str(head), "--output", str(reply), f"{base_url}/embeddings"]
    output_of(command)
    whole = reply.read_bytes()
    assert len(whole) > 65_536
    output_of([*command, "--compressed"])
    assert re.search(r"^content-encoding: (gzip|zstd)", head.read_text(), re.I | re.M)
    assert reply.read_bytes() == whole
    assert_same(vectors_of(whole), plain(root, many))


def test_curl_sends_gzip(root: str, base_url: str, curl: list[str], tmp_path: Path) -> None:
    """A body that was compressed by gzip is read, with its length given and in chunks."""
    file = tmp_path / "body.gz"
    file.write_bytes(gzip.compress(BODY.encode()))
    command = [*curl, "--header", "content-encoding: gzip", "--data-binary", f"@{file}", f"{base_url}/embeddings"]
    expected = plain(root, TEXTS)
    assert_same(vectors_of(output_of(command)), expected)
    assert_same(vectors_of(output_of([*command, "--header", "transfer-encoding: chunked"])), expected)
