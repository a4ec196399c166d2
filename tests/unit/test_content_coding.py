"""Content codings: bodies expanded within a limit, replies compressed when asked for and worth it."""

import gzip
import io
import random
import zlib
from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import asgi, content_coding
from common.asgi import Reply
from common.content_coding import (
    MAX_MEMBERS,
    MIN_REPLY_BYTES,
    STEP_BYTES,
    STEP_PARTS,
    BrokenBody,
    Steps,
    UnknownCoding,
    chosen_coding,
    coding_of,
    compressed,
    compression_steps,
    expansion_steps,
)
from gateway.admission import Admission, Place
from gateway.bodies import expanded_body
from gateway.errors import BadRequest, BodyTooLarge
from gateway.work_pool import WorkPool

MIB = 2**20
T = TypeVar("T")
HAS_ZSTD = content_coding.zstd is not None
BOTH = pytest.mark.parametrize(
    "coding", ["gzip", pytest.param("zstd", marks=pytest.mark.skipif(not HAS_ZSTD, reason="no zstd in this Python"))]
)


def packed(content: bytes, coding: str) -> bytes:
    """Content as a client would send it, one member or frame."""
    return gzip.compress(content) if coding == "gzip" else content_coding.zstd.compress(content)


class Collector:
    """Runs steps as a pool would, and counts them."""

    def __init__(self) -> None:
        self.steps = 0

    async def __call__(self, steps: Steps) -> list[bytes]:
        found: list[bytes] = []
        for parts in steps:
            self.steps += 1
            found += parts
        return found


class Pool(WorkPool):
    """Counts the steps that it runs."""

    steps = 0

    async def run(self, tenant: str, step: Callable[[], T]) -> T:
        self.steps += 1
        return step()


async def expand(body: bytes, coding: str, max_bytes: int = 16 * MIB, pool: WorkPool | None = None) -> bytes:
    """As the gateway expands a request's body."""
    place = Place(Admission(1, 64 * MIB, is_shared=False))
    place.enter("default")
    return await expanded_body(body, coding.encode(), max_bytes, place, pool or Pool(), "default")


def numbers(n: int) -> bytes:
    """A reply of `n` vectors as JSON."""
    rows = np.random.default_rng(0).normal(0, 0.05, (n, 384)).astype(np.float32)
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 100, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 3 * MIB])
async def test_a_body_comes_back(coding: str, size: int) -> None:
    """Of any size, and of content that shrinks and that does not."""
    for content in (random.Random(size).randbytes(size), bytes(size)):
        assert await expand(packed(content, coding), coding) == content


@BOTH
@given(content=st.binary(max_size=5000), cuts=st.lists(st.integers(0, 5000), max_size=4))
def test_several_members_are_one_body(coding: str, content: bytes, cuts: list[int]) -> None:
    """RFC 1952 and RFC 8878: what is concatenated compressed is concatenated."""
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    body = b"".join(packed(content[start:end], coding) for start, end in pairwise(places))
    assert b"".join(part for parts in expansion_steps(body, coding, 5000) for part in parts) == content


async def test_gzip_with_names_and_checksums_is_read() -> None:
    """A file of the gzip command: a name, a time, a comment in the head."""
    file = io.BytesIO()
    with gzip.GzipFile("texts.json", "wb", fileobj=file, mtime=1) as out:
        out.write(b"[1]")
    assert await expand(file.getvalue(), "gzip") == b"[1]"


@BOTH
async def test_the_limit_counts_what_comes_out(coding: str) -> None:
    """Exactly the limit passes, one byte more does not, though both arrive in far fewer."""
    assert len(await expand(packed(bytes(MIB), coding), coding, MIB)) == MIB
    with pytest.raises(BodyTooLarge):
        await expand(packed(bytes(MIB + 1), coding), coding, MIB)


@BOTH
def test_a_bomb_stops_at_the_limit(coding: str) -> None:
    """A gigabyte in a megabyte: no step holds more than its part, and all of them no more than the limit."""
    bomb = packed(bytes(64 * MIB), coding) * 16
    sizes: list[int] = []

    def count() -> None:
        sizes.extend(sum(map(len, parts)) for parts in expansion_steps(bomb, coding, MIB))

    with pytest.raises(asgi.BodyTooLarge):
        count()
    assert sum(sizes) <= MIB
    assert max(sizes) <= 2 * STEP_BYTES


@BOTH
async def test_broken_bodies_are_named(coding: str) -> None:
    """Cut off anywhere, damaged, followed by something, empty, or not compressed at all."""
    whole = packed(b'{"input": "x"}' * 50, coding)
    for cut in range(1, len(whole)):
        with pytest.raises(BadRequest):
            await expand(whole[:cut], coding)
    with pytest.raises(BadRequest, match="goes on after the end"):
        await expand(whole + b"\n", coding)
    with pytest.raises(BadRequest):
        await expand(whole + whole[:-1], coding)
    with pytest.raises(BadRequest, match="empty"):
        await expand(b"", coding)
    with pytest.raises(BadRequest, match=f"not {coding}"):
        await expand(b'{"input": "x"}', coding)


@BOTH
@given(body=st.binary(max_size=300), place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_bytes_are_expanded_or_refused(coding: str, body: bytes, place: int, byte: int) -> None:
    """Nothing else is raised, whatever arrives, and no step runs for ever."""
    damaged = bytearray(packed(body, coding))
    damaged[place % len(damaged)] = byte
    for given_body in (body, bytes(damaged)):
        try:
            made = b"".join(part for parts in expansion_steps(given_body, coding, 1000) for part in parts)
        except (BrokenBody, asgi.BodyTooLarge):
            continue
        assert len(made) <= 1000


@BOTH
async def test_members_without_number_are_refused(coding: str) -> None:
    """A million empty members in 20 MB are work without content."""
    empty = packed(b"", coding)
    assert await expand(empty * MAX_MEMBERS, coding) == b""
    with pytest.raises(BadRequest, match="members"):
        await expand(empty * (MAX_MEMBERS + 1), coding)


@pytest.mark.skipif(not HAS_ZSTD, reason="no zstd in this Python")
async def test_a_window_larger_than_the_coding_s_is_refused() -> None:
    """RFC 9659: a client may not make the server keep more than 8 MiB."""
    zstd = content_coding.zstd
    options = {zstd.CompressionParameter.window_log: 24, zstd.CompressionParameter.enable_long_distance_matching: 1}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(random.Random(0).randbytes(17 * MIB)) + compressor.flush()
    with pytest.raises(BadRequest, match="window of over 8 MiB"):
        await expand(body, "zstd", 32 * MIB)


@BOTH
async def test_long_work_is_handed_over(coding: str) -> None:
    """A small body is expanded where it is; of a large one the first step is, and the pool has the others."""
    pool = Pool()
    assert await expand(packed(b"x" * 1000, coding), coding, MIB, pool) == b"x" * 1000
    assert pool.steps == 0
    content = random.Random(0).randbytes(MIB)
    assert await expand(packed(content, coding), coding, MIB, pool) == content
    assert pool.steps >= MIB // STEP_BYTES - 1
    pool.steps = 0
    members = packed(b"x", coding) * MAX_MEMBERS
    assert await expand(members, coding, MIB, pool) == b"x" * MAX_MEMBERS
    assert pool.steps >= MAX_MEMBERS // STEP_PARTS - 1
    pool.steps = 0
    assert await expand(packed(bytes(4 * MIB), coding), coding, 4 * MIB, pool) == bytes(4 * MIB)
    assert pool.steps >= 4 * MIB // STEP_BYTES - 1


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, None), (b"", None), (b"identity", None), (b" Identity , ", None), (b"gzip", "gzip"),
        (b"GZip", "gzip"), (b"x-gzip", "gzip"), (b"identity, gzip", "gzip"), (b" gzip ", "gzip"),
    ],
)  # fmt: skip
def test_content_encoding_is_read(header: bytes | None, coding: str | None) -> None:
    """In any case, with the old name of gzip, with `identity`, which is none."""
    assert coding_of(header) == coding


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"br", "`Content-Encoding: br` is not known"),
        (b"deflate", "deflate"),
        (b"gzip, gzip", "2 content codings"),
        (b"gzip,identity,zstd", "2 content codings"),
        (b"\xff" * 500, "not known here"),
    ],
)
def test_other_codings_are_refused_with_ours(header: bytes, message: str) -> None:
    """The message names what can be sent; so does `accept`, for the reply's header."""
    with pytest.raises(UnknownCoding, match=message) as refused:
        coding_of(header)
    assert b"gzip" in refused.value.accept
    assert len(str(refused.value)) < 200


BEST = "zstd" if HAS_ZSTD else "gzip"


@pytest.mark.parametrize(
    ("header", "coding", "must"),
    [
        (None, None, False),
        (b"", None, False),
        (b"identity", None, False),
        (b"gzip", "gzip", False),
        (b"gzip, deflate", "gzip", False),
        (b"gzip, deflate, br, zstd", BEST, False),
        (b"*", BEST, False),
        (b"br, *;q=0.1", BEST, False),
        (b"X-GZIP", "gzip", False),
        (b"gzip;q=0", None, False),
        (b"gzip;q=0, *", "zstd" if HAS_ZSTD else None, False),
        (b"gzip; q=1.0, zstd;q=0.5", "gzip", False),
        (b"gzip;q=0.5, identity", None, False),
        (b"gzip;q=0.5, identity;q=0.5", "gzip", False),
        (b"gzip, identity;q=0", "gzip", True),
        (b"gzip, *;q=0", "gzip", True),
        (b"identity;q=0", None, False),
        (b"*;q=0", None, False),
        (b"br;q=1, identity;q=0", None, False),
        (b"gzip;q=high", None, False),
        (b"gzip;q=nan", None, False),
        (b"gzip;q=7", None, False),
        (b",;,;;q=1,=,gzip", "gzip", False),
    ],
)
def test_accept_encoding_is_honoured(header: bytes | None, coding: str | None, must: bool) -> None:
    """Weights, `*`, `identity`, nonsense: RFC 9110, section 12.5.3."""
    assert chosen_coding(header) == (coding, must)


@BOTH
async def test_a_large_reply_is_compressed(coding: str) -> None:
    """To less than half, off the event loop, readable by others' decompressors."""
    reply = Reply(numbers(100), [(b"x-cache", b"l0")])
    collector = Collector()
    smaller = await compressed(reply, coding.encode(), collector)
    assert smaller.headers == [
        (b"x-cache", b"l0"),
        (b"vary", b"accept-encoding"),
        (b"content-encoding", coding.encode()),
    ]
    assert len(smaller.body) < len(reply.body) / 2
    unpack = gzip.decompress if coding == "gzip" else content_coding.zstd.decompress
    assert unpack(smaller.body) == reply.body
    assert collector.steps >= len(reply.body) // STEP_BYTES
    assert reply.headers == [(b"x-cache", b"l0")]


async def test_what_is_not_worth_it_stays() -> None:
    """Small replies; no coding asked for; gzip of base64. A large one says that it might have been otherwise."""
    collector = Collector()
    small = Reply(numbers(1))
    assert len(small.body) < MIN_REPLY_BYTES
    assert await compressed(small, b"gzip, zstd", collector) is small
    for large, asked in ((Reply(numbers(50)), None), (Reply(b64encode(random.Random(0).randbytes(MIB))), b"gzip")):
        same = await compressed(large, asked, collector)
        assert same.body == large.body
        assert same.headers == [(b"vary", b"accept-encoding")]
    assert collector.steps == 0


@pytest.mark.skipif(not HAS_ZSTD, reason="no zstd in this Python")
async def test_zstd_of_base64_is_worth_it() -> None:
    """It is ten times as fast as gzip there."""
    reply = await compressed(Reply(b64encode(random.Random(0).randbytes(MIB))), b"zstd", Collector())
    assert len(reply.body) < MIB * 4 / 3 / 1.2


async def test_a_client_that_refuses_plain_replies_gets_none() -> None:
    """Also small ones."""
    reply = await compressed(Reply(b"{}"), b"gzip, identity;q=0", Collector())
    assert gzip.decompress(reply.body) == b"{}"


@BOTH
@given(st.binary(max_size=2000), st.integers(1, 400))
def test_what_is_compressed_expands(coding: str, content: bytes, times: int) -> None:
    """Both directions are each other's."""
    body = b"".join(part for parts in compression_steps(content * times, coding) for part in parts)
    made = b"".join(part for parts in expansion_steps(body, coding, len(content) * times) for part in parts)
    assert made == content * times


async def test_without_zstd_there_is_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without either package says so, and works."""
    monkeypatch.setattr(content_coding, "zstd", None)
    assert chosen_coding(b"zstd, gzip;q=0.1") == ("gzip", False)
    with pytest.raises(UnknownCoding, match="send gzip, or none"):
        coding_of(b"zstd")
    assert await expand(gzip.compress(b"x"), "gzip") == b"x"
    with pytest.raises(BadRequest):
        await expand(zlib.compress(b"x"), "gzip")
