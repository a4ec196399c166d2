"""Raw requests to both servers: each gets exactly one reply, or a closed connection; no body runs as a request.

A body that a server takes for its connection's next request is how one client's bytes become another's request behind a
proxy that reuses connections. So most bodies here are themselves well-formed requests, for `/health`.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine.server
import engine.vectors
from common import http_protocol
from common.http_protocol import MAX_HEAD_BYTES, MAX_HEAD_FIELDS, MAX_PIPELINED
from tests.background import in_background
from tests.gateway_client import running_gateway, until_ready
from tests.integration.engine_under_test import engine_of, served, tiny_model
from tests.raw_http import PATIENCE_S, Answers, statuses_of, talk
from tests.stand_in_engine import StandInEngine

SMUGGLED = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
STALLED_SEND_S = 1.0
MAX_CONNECTIONS = 6
NEXT = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
BAD = (400, 405, 408, 413, 415, 422, 431, 501)
FEW = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@dataclass(frozen=True)
class Server:
    """A server under test: its port, its main route, and a body that this route answers with 200."""

    port: int
    path: bytes
    good: bytes

    def post(self, body: bytes, *fields: bytes, length: bytes | None = None, version: bytes = b"1.1") -> bytes:
        """A request with a length, and further fields."""
        size = b"%d" % len(body) if length is None else length
        return self.head(b"content-length: " + size, *fields, version=version) + body

    def head(self, *fields: bytes, version: bytes = b"1.1") -> bytes:
        """The head of a POST."""
        own = (b"host: localhost", b"content-type: application/json")
        return b"\r\n".join([b"POST %b HTTP/%b" % (self.path, version), *own, *fields, b"", b""])


@asynccontextmanager
async def gateway_port(**settings: Any) -> AsyncIterator[int]:
    async with StandInEngine().running() as behind, running_gateway(behind.url, **settings) as client:
        await until_ready(client)
        assert client.base_url.port is not None
        yield client.base_url.port


@pytest.fixture(scope="module", params=["gateway", "engine"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "engine":
        folder: Path = tmp_path_factory.mktemp("bundle")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.server, "STALLED_SEND_S", STALLED_SEND_S)
            patch.setattr(engine.vectors, "BODY_TIMEOUT_S", 1.0)
            with served(engine_of(tiny_model(folder))) as url:
                yield Server(int(url.rpartition(":")[2]), b"/vectors", b'{"texts": ["a"]}')
    else:
        settings = {"body_timeout_s": 1, "send_timeout_s": STALLED_SEND_S}
        with in_background(gateway_port(**settings)) as port:
            yield Server(port, b"/v1/embeddings", b'{"model": "tiny", "input": "a"}')


async def ask(server: Server, *pieces: bytes, pause_s: float = 0.05) -> Answers:
    answers = await talk(server.port, pieces, pause_s)
    assert b"Traceback" not in answers.raw
    return answers


# Upgrades


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"foo", b"TLS/1.0, HTTP/1.1"])
@pytest.mark.parametrize("is_split", [False, True])
async def test_an_upgrade_is_ignored_and_the_request_answered(server: Server, protocol: bytes, is_split: bool) -> None:
    """As RFC 9110 section 7.8 has it; Java's HttpClient asks for h2c with every first request."""
    fields = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: " + protocol, b"http2-settings: AAMAAABk")
    request = server.post(server.good, *fields)
    cut = request.index(b"\r\n\r\n") + 4
    answers = await ask(server, *((request[:cut], request[cut:]) if is_split else (request,)))
    assert (answers.statuses, answers.is_closed) == ([200], False)
    answers = await ask(server, server.post(SMUGGLED, *fields)[:cut], SMUGGLED, pause_s=0.3)
    assert answers.statuses == [400]  # not JSON; and nothing else


async def test_an_upgrade_with_a_chunked_body(server: Server) -> None:
    """The body is read as the request's own, and the next request is the next."""
    head = server.head(b"transfer-encoding: chunked", b"connection: upgrade, close", b"upgrade: h2c")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(server.good), server.good)
    answers = await ask(server, head + body + NEXT)
    assert (answers.statuses, answers.is_closed) == ([200], True)  # the rest of the Connection field counts
    get = NEXT.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
    assert (await ask(server, get + get)).statuses == [200, 200]


# Two readings


TWO_READINGS = {
    "two lengths": (b"content-length: 0", b"content-length: %d"),
    "two equal lengths": (b"content-length: %d", b"content-length: %d"),
    "length and chunked": (b"content-length: %d", b"transfer-encoding: chunked"),
    "chunked and length": (b"transfer-encoding: chunked", b"content-length: %d"),
    "list of lengths": (b"content-length: %d, %d",),
    "signed length": (b"content-length: +%d",),
    "hexadecimal length": (b"content-length: 0x%d",),
    "length of 5,000 digits": (b"content-length: " + b"0" * 5000 + b"%d",),
    "length of 20 nines": (b"content-length: " + b"9" * 20,),
    "space before the colon": (b"content-length : %d",),
    "coding that is not chunked": (b"transfer-encoding: xchunked",),
    "chunked not last": (b"transfer-encoding: chunked, identity",),
    "gzip, then chunked": (b"transfer-encoding: gzip, chunked",),
    "chunked twice": (b"transfer-encoding: chunked", b"transfer-encoding: chunked"),
    "identity": (b"transfer-encoding: identity",),
    "vertical tab": (b"transfer-encoding: \x0bchunked",),
    "folded": (b"transfer-encoding:\r\n chunked",),
    "field without a name": (b": %d",),
    "NUL in a value": (b"x-a: b\x00c",),
    "bare carriage return": (b"x-a: b\rcontent-length: %d",),
    "two hosts": (b"host: other", b"content-length: %d"),
    "two keys": (b"authorization: Bearer a", b"authorization: Bearer b", b"content-length: %d"),
    "two media types": (b"content-type: text/plain", b"content-length: %d"),
}


@pytest.mark.parametrize("name", TWO_READINGS)
async def test_what_a_proxy_may_read_otherwise_is_refused(server: Server, name: str) -> None:
    """One refusal and a closed connection, never an answer to what stands in the body."""
    fields = [field.replace(b"%d", b"%d" % len(SMUGGLED)) for field in TWO_READINGS[name]]
    answers = await ask(server, server.head(*fields) + SMUGGLED, NEXT)
    assert len(answers.statuses) <= 1
    assert set(answers.statuses) <= set(BAD)
    assert answers.is_closed


@pytest.mark.parametrize("version", [b"1.0", b"0.9", b"2.0", b"9.9"])
async def test_other_versions(server: Server, version: bytes) -> None:
    """HTTP/1.0 has no chunked coding, and no second request without keep-alive; the rest is refused."""
    answers = await ask(server, server.post(server.good, version=version) + NEXT)
    assert answers.statuses == ([200] if version == b"1.0" else answers.statuses[:1])
    assert set(answers.statuses) <= {200, *BAD, 505}
    assert answers.is_closed
    chunked = await ask(server, server.head(b"transfer-encoding: chunked", version=version) + b"0\r\n\r\n" + NEXT)
    assert set(chunked.statuses) <= set(BAD)
    assert (len(chunked.statuses) <= 1, chunked.is_closed) == (True, True)


async def test_no_host(server: Server) -> None:
    """HTTP/1.1 needs one."""
    answers = await ask(server, server.post(server.good).replace(b"host: localhost\r\n", b""))
    assert (answers.statuses, answers.is_closed) == ([400], True)


async def test_connect_is_no_tunnel(server: Server) -> None:
    """What follows a CONNECT is not read as a request."""
    answers = await ask(server, b"CONNECT localhost:22 HTTP/1.1\r\nhost: localhost\r\n\r\n", NEXT)
    assert (answers.statuses, answers.is_closed) == ([405], True)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\nabc\r\n0\r\n\r\n", b"-1\r\na\r\n0\r\n\r\n", b"f" * 17 + b"\r\n", b"1 \r\na\r\n", b"1\r\nab\r\n"],
)
async def test_broken_chunks(server: Server, chunks: bytes) -> None:
    """One refusal; what follows is not a request."""
    answers = await ask(server, server.head(b"transfer-encoding: chunked") + chunks + NEXT)
    assert (len(answers.statuses), answers.is_closed) == (1, True)
    assert set(answers.statuses) <= set(BAD)


# Sizes


FIELD = b"x-many: 1"
LONG = b"x" * (MAX_HEAD_BYTES + 1)
TOO_LARGE = {
    "fields of a head": [NEXT[:-2] + (FIELD + b"\r\n") * MAX_HEAD_FIELDS + b"\r\n"],
    "endless field": [NEXT[:-2] + b"x-long: ", *[b"x" * 8192] * 60],
    "whole long field": [NEXT[:-2] + b"x-long: " + LONG + b"\r\n\r\n"],
    "endless name": [NEXT[:-2], *[b"x" * 8192] * 60],
    "endless path": [b"GET /", *[b"x" * 8192] * 60],
    "whole long path": [b"GET /" + LONG + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"],
    "endless empty lines": [b"\r\n" * 4096] * 60,
}  # fmt: skip
CHUNKED_TAILS = {
    "fields of trailers": [b"0\r\n" + (FIELD + b"\r\n") * (MAX_HEAD_FIELDS + 1) + b"\r\n"],
    "endless trailer": [b"0\r\nx-long: ", *[b"x" * 8192] * 60],
    "endless extension": [b"1;", *[b"x" * 8192] * 60],
}


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_a_head_is_bounded(server: Server, name: str) -> None:
    """431 once, as soon as it is too much, and the client can read it although it still sends."""
    answers = await ask(server, *TOO_LARGE[name], pause_s=0)
    assert (answers.statuses, answers.is_closed) == ([431], True)


@pytest.mark.parametrize("name", CHUNKED_TAILS)
async def test_what_is_no_body_is_bounded_in_a_chunked_one(server: Server, name: str) -> None:
    """Trailers and extensions are never kept, and end the connection where there is too much of them."""
    body = b"%x\r\n%b\r\n" % (len(server.good), server.good)
    answers = await ask(server, server.head(b"transfer-encoding: chunked") + body, *CHUNKED_TAILS[name], pause_s=0)
    assert (answers.statuses, answers.is_closed) == ([431], True)


async def test_trailers_do_not_become_fields(server: Server) -> None:
    """A media type in the trailers changes nothing, and the next request is answered."""
    body = b"%x\r\n%b\r\n0\r\ncontent-type: text/plain\r\nx-a: b\r\n\r\n" % (len(server.good), server.good)
    answers = await ask(server, server.head(b"transfer-encoding: chunked") + body + NEXT)
    assert (answers.statuses, answers.is_closed) == ([200, 200], False)


async def test_many_requests_at_once_on_one_connection(server: Server) -> None:
    """Answered in order; past the limit the connection is closed after its last answer."""
    few = await ask(server, NEXT * 10)
    assert (few.statuses, few.is_closed) == ([200] * 10, False)
    many = await ask(server, NEXT * 2000)
    assert set(many.statuses) == {200}
    assert MAX_PIPELINED <= len(many.statuses) <= MAX_PIPELINED + 2
    assert many.is_closed
    mixed = await ask(server, NEXT + NEXT + b"\x00noise\r\n\r\n" + NEXT)
    assert (set(mixed.statuses[:2]), mixed.is_closed) == ({200}, True)
    assert len(mixed.statuses) <= 3


async def test_a_refused_body_does_not_reset_the_connection(server: Server) -> None:
    """The 413 of a body that is still being sent can be read by a client that sends on."""
    body = b"x" * 40_000_000
    answers = await ask(server, server.head(b"content-length: %d" % len(body)), body)
    assert (answers.statuses, answers.is_closed) == ([413], True)
    assert b"connection: close" in answers.raw


# Time


@pytest.fixture
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(http_protocol, "DISCARD_S", 0.5)


@pytest.mark.usefixtures("short_times")
async def test_silence_and_slow_heads_end(server: Server) -> None:
    """A silent connection is closed; a head that comes byte by byte gets 408; one after a good request too."""
    silent, slow, later, empty_lines = await asyncio.gather(
        talk(server.port, [], end=b""),
        talk(server.port, [bytes([byte]) for byte in NEXT], pause_s=0.1, end=b""),
        talk(server.port, [NEXT, *(bytes([byte]) for byte in NEXT)], pause_s=0.1, end=b""),
        talk(server.port, [NEXT, *[b"\r\n"] * 40], pause_s=0.1, end=b""),
    )
    assert (silent.statuses, silent.is_closed) == ([], True)
    assert (slow.statuses, slow.is_closed) == ([408], True)
    assert (later.statuses, later.is_closed) == ([200, 408], True)
    assert (empty_lines.statuses[:1], empty_lines.is_closed) == ([200], True)


@pytest.mark.usefixtures("short_times")
async def test_a_body_after_its_answer_is_read_for_a_while_only(server: Server) -> None:
    """A body that drips on after the 405 does not hold the connection."""
    head = server.head(b"content-length: 1000").replace(server.path, b"/health")
    answers = await talk(server.port, [head, *[b"x"] * 60], pause_s=0.1, end=b"")
    assert (answers.statuses, answers.is_closed) == ([405], True)
    whole = server.post(b"x" * 200).replace(server.path, b"/health")
    answers = await talk(server.port, [whole[:-100], whole[-100:] + NEXT], pause_s=0.05)
    assert (answers.statuses, answers.is_closed) == (
        [405, 200],
        False,
    )  # the rest came in time, and the connection goes on


async def test_a_client_that_reads_nothing_is_dropped(server: Server) -> None:
    """The connection ends although its replies were never taken, and what was waiting for them goes with it."""
    item = server.good[server.good.index(b'"a"') :].rstrip(b"]}")
    many = server.good.replace(item, b"[" + b",".join([item] * 2048) + b"]").replace(b"[[", b"[").replace(b"]]", b"]")
    with closing(socket.socket()) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", server.port))
        silent.sendall(server.post(many) * 16)
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                while True:
                    await asyncio.sleep(0.1)
                    silent.sendall(b"\r\n")
    assert (await ask(server, NEXT)).statuses == [200]


# Connections


@pytest.fixture
def small_gateway() -> Iterator[int]:
    """The port of a gateway with MAX_CONNECTIONS."""
    with in_background(gateway_port(body_timeout_s=30, max_connections=MAX_CONNECTIONS)) as port:
        yield port


async def test_silent_connections_make_room(small_gateway: int) -> None:
    """Any number of them, and of heads that are never ended, keep nobody out."""
    silent = [await asyncio.open_connection("127.0.0.1", small_gateway) for _ in range(4 * MAX_CONNECTIONS)]
    for _, writer in silent[::2]:
        writer.write(b"GET /health HTTP/1.1\r\n")
    for _ in range(3):
        assert (await talk(small_gateway, [NEXT])).statuses == [200]
    await _abort(silent)


async def test_health_is_answered_where_all_connections_work(small_gateway: int) -> None:
    """Others get 503 with the reason, and all is well once one has ended."""
    head = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
    busy = []
    async with asyncio.timeout(PATIENCE_S):
        while (answers := await talk(small_gateway, [head + b"x" * 100])).statuses != [503]:
            busy.append(await asyncio.open_connection("127.0.0.1", small_gateway))
            busy[-1][1].write(head)
    assert answers.is_closed
    assert b'"too_many_connections"' in answers.raw
    last = NEXT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert (await talk(small_gateway, [], end=last)).statuses == [200]
    crowd = [await asyncio.open_connection("127.0.0.1", small_gateway) for _ in range(4 * MAX_CONNECTIONS)]
    await _abort(busy + crowd)
    async with asyncio.timeout(PATIENCE_S):
        while (await talk(small_gateway, [head + b"x" * 100])).statuses != [400]:
            await asyncio.sleep(0.05)


async def _abort(connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in connections:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


# Any bytes, in any pieces


@FEW
@given(cuts=st.lists(st.lists(st.integers(1, 600), max_size=6, unique=True), min_size=12, max_size=12))
def test_pieces_do_not_matter(server: Server, cuts: list[list[int]]) -> None:
    """However a request is cut, its answer is the same."""
    requests = {
        name: server.head(*(field.replace(b"%d", b"%d" % len(SMUGGLED)) for field in fields)) + SMUGGLED + NEXT
        for name, fields in TWO_READINGS.items()
    }
    good = server.post(server.good, b"upgrade: h2c", b"connection: upgrade") + server.post(server.good) + NEXT
    chosen = itertools.islice(itertools.cycle([good, *requests.values(), good]), cuts[0][0] if cuts[0] else 0, None)

    async def send_all() -> list[tuple[bytes, Answers]]:
        sent = [(request, _cut(request, at)) for request, at in zip(chosen, cuts, strict=False)]
        answers = await asyncio.gather(*(talk(server.port, pieces, pause_s=0.002) for _, pieces in sent))
        return [(request, answer) for (request, _), answer in zip(sent, answers, strict=True)]

    for request, answers in asyncio.run(send_all()):
        if request == good:
            assert (answers.statuses, answers.is_closed) == ([200, 200, 200], False)
        else:
            assert set(answers.statuses) <= set(BAD)
            assert (len(answers.statuses) <= 1, answers.is_closed) == (True, True)


def _cut(request: bytes, at: list[int]) -> list[bytes]:
    ends = [0, *sorted(cut for cut in at if cut < len(request)), len(request)]
    return [request[start:end] for start, end in itertools.pairwise(ends)]


LINES = (
    *(b"GET /health HTTP/1.1", b"POST /v1/embeddings HTTP/1.1", b"POST /vectors HTTP/1.0", b"HTTP/1.1 200 OK"),
    *(b"host: a", b"content-length: 3", b"content-length: 0", b"transfer-encoding: chunked", b"upgrade: h2c"),
    *(b"connection: upgrade", b"connection: close", b"expect: 100-continue", b"content-type: application/json"),
    *(b"", b"0\r\n", b"3\r\nabc"),
)
parts = st.sampled_from([line + b"\r\n" for line in LINES] + [b"\n", b"\r", b"abc", b"{}", b" ", b"\x00"])


@FEW
@given(scripts=st.lists(st.lists(parts | st.binary(max_size=8), min_size=1, max_size=14), min_size=1, max_size=20))
def test_fragments_of_requests(server: Server, scripts: list[list[bytes]]) -> None:
    """Whatever fragments come: whole replies only, at most one for each request line, no fault, and no hang."""

    async def send_all() -> list[Answers]:
        return await asyncio.gather(*(talk(server.port, script, pause_s=0.001) for script in scripts))

    for script, answers in zip(scripts, asyncio.run(send_all()), strict=True):
        assert all(status < 500 or status == 501 for status in answers.statuses)
        assert len(answers.statuses) <= b"".join(script).count(b"HTTP/") + 1
    assert asyncio.run(talk(server.port, [NEXT])).statuses == [200]


def test_the_reader_of_replies_sees_a_second_one() -> None:
    """The measure of all tests here: it counts what is sent, and refuses what is no reply."""
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    assert statuses_of(reply + reply) == [200, 200]
    with pytest.raises(AssertionError):
        statuses_of(reply + b"x")
