"""HTTP content codings: request bodies expanded within a limit, replies compressed where that is worth it.

    for parts in expansion_steps(content, coding_of(headers.get(b"content-encoding")), max_bytes): ...
    reply = await compressed(reply, headers.get(b"accept-encoding"), collect)

gzip, and zstd where Python has it (3.14, or the package backports.zstd). Both directions work in steps of a bounded
number of bytes, about a millisecond of expanding, so that they can be run off the event loop: `collect` is to do that,
such as `partial(pool.collect, namespace)`.

An expanded body is counted while it grows, so one that would expand to more than `max_bytes` costs no more than that.
Several members or frames in a row are one body, as RFC 1952 and RFC 8878 have it. What is refused:

    CodingError
    ├── UnknownCoding    not a coding of ours, or more than one: 415; `accept` is for the reply's Accept-Encoding
    └── BrokenBody       not gzip or zstd, cut off, followed by something else, too many members: 400
    asgi.BodyTooLarge    it expands to more than the limit: 413

Compression next to secrets lets an attacker who can choose a part of the same reply guess them by its length (BREACH).
An embedding reply holds vectors of the request's own texts, no secret beside them, so there is nothing to guess.
"""

import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

from common.asgi import BodyTooLarge, Reply

try:
    from backports import zstd
except ImportError:  # Python 3.14 has it itself; without either there is gzip alone
    try:
        from compression import zstd  # type: ignore[no-redef, import-not-found, unused-ignore]
    except ImportError:
        zstd = None  # type: ignore[assignment, unused-ignore]

STEP_BYTES: Final = 262_144  # about a millisecond of expanding; of compressing up to ten
GIVEN_BYTES: Final = 16_384  # to the decompressor at a time; what it leaves of them is copied
STEP_PARTS: Final = 64  # calls of the decompressor in a step: many small members cost more than their bytes
MAX_MEMBERS: Final = 1024  # of one body; bgzip's have 64 KiB each. A million empty ones would cost seconds
GZIP_WINDOW: Final = 31  # zlib: the largest window, in gzip's own format
ZSTD_WINDOW_LOG: Final = 23  # 8 MiB, which RFC 9659 makes the most for this coding
GZIP_MAGIC: Final = b"\x1f\x8b"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
ALIASES: Final = {"x-gzip": "gzip"}

# Level 1 of both: of float JSON, 2.3 times with gzip and 2.7 with zstd; higher levels gain a tenth for ten times the
# time (docs/decisions/compressed-replies.md).
LEVEL: Final = 1
MIN_REPLY_BYTES: Final = 65_536  # eight vectors or so of float JSON: what one request of a user gets stays as it is
SAMPLE_BYTES: Final = 16_384
# What a sample must shrink by. gzip on base64 gains 1.3 at under 30 MB/s, so is slower than most networks; zstd, with
# 1.35 at twenty times that, is not.
LEAST_GAIN: Final = {"gzip": 1.5, "zstd": 1.2}

Steps = Iterator[list[bytes]]
Collect = Callable[[Steps], Awaitable[list[bytes]]]


class CodingError(Exception):
    """A body's content coding cannot be undone; the message says what to send."""


class UnknownCoding(CodingError):
    """Not a coding of ours, or more than one."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.accept = ", ".join(codings()).encode()


class BrokenBody(CodingError):
    """Not what its Content-Encoding says."""


def codings() -> tuple[str, ...]:
    """The codings there are, the best first."""
    return ("gzip",) if zstd is None else ("zstd", "gzip")


# Requests


def coding_of(content_encoding: bytes | None) -> str | None:
    """The coding that a Content-Encoding names; None for none, or `identity`. Raises UnknownCoding."""
    named = (content_encoding or b"").decode("latin-1").lower().split(",")
    names = [ALIASES.get(name, name) for name in map(str.strip, named) if name not in {"", "identity"}]
    if not names:
        return None
    ours = " or ".join(reversed(codings()))
    if len(names) > 1:
        raise UnknownCoding(f"the body has {len(names)} content codings; send it with {ours}, once")
    if names[0] not in codings():
        raise UnknownCoding(f"`Content-Encoding: {names[0][:40]}` is not known here; send {ours}, or none")
    return names[0]


def expansion_steps(body: bytes, coding: str, max_bytes: int) -> Steps:
    """The expanded body in parts; a step of them is about STEP_BYTES at most, and made of at most as many.

    Raises BrokenBody, and BodyTooLarge as soon as there is more than `max_bytes`.
    """
    magic = GZIP_MAGIC if coding == "gzip" else ZSTD_MAGIC
    total, members, at = 0, 0, 0
    member: _Member | None = None
    parts: list[bytes] = []
    read, made = 0, 0  # in this step
    while at < len(body) or member is not None:
        if member is None:
            if members and not body.startswith(magic, at):
                raise BrokenBody(f"the body goes on after the end of its {coding}")
            if members == MAX_MEMBERS:
                raise BrokenBody(f"the body has over {MAX_MEMBERS} {coding} members; send one")
            member, members = _member_of(coding), members + 1
        given = body[at : at + GIVEN_BYTES] if member.needs_input else b""
        if member.needs_input and not given:
            raise BrokenBody(f"the body's {coding} ends too early")
        part = _expand(member, given, min(STEP_BYTES, max_bytes - total + 1), coding)
        total += len(part)
        if total > max_bytes:
            raise BodyTooLarge
        parts.append(part)
        used = len(given)
        if member.eof:
            used -= len(member.unused_data)
            member = None
        at, read, made = at + used, read + used, made + len(part)
        if made >= STEP_BYTES or read >= STEP_BYTES or len(parts) >= STEP_PARTS:
            yield parts
            parts, read, made = [], 0, 0
    if not members:
        raise BrokenBody(f"the body is empty, and not {coding}")
    yield parts


class _Member(Protocol):
    """A decompressor of one gzip member or zstd frame."""

    eof: bool
    unused_data: bytes

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """zlib's decompressor, with the interface of those of bz2, lzma and zstd: it keeps what it has not used."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(GZIP_WINDOW)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._is_full

    def decompress(self, data: bytes, max_length: int) -> bytes:
        part = self._zlib.decompress(data or self._zlib.unconsumed_tail, max_length)
        self._is_full = bool(self._zlib.unconsumed_tail) or len(part) == max_length
        return part


def _member_of(coding: str) -> Any:
    if coding == "gzip":
        return _GzipMember()
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})


def _expand(member: _Member, given: bytes, most: int, coding: str) -> bytes:
    try:
        return member.decompress(given, most)
    except zlib.error:
        raise BrokenBody(f"the body is not {coding}") from None
    except Exception as error:
        if zstd is not None and isinstance(error, zstd.ZstdError):
            raise BrokenBody(f"the body is not {coding}, or needs a window of over 8 MiB") from None
        raise


# Replies


def chosen_coding(accept_encoding: bytes | None) -> tuple[str | None, bool]:
    """The coding that an Accept-Encoding prefers, None for none; and whether the client refuses it without one.

    By RFC 9110, section 12.5.3: the highest weight, of equal ones ours, which is zstd before gzip before none; `*`
    stands for what is not named. A client that refuses all there is gets the reply as it is, which the section allows.
    """
    weights = _weights((accept_encoding or b"").decode("latin-1"))
    rest = weights.get("*")
    identity = weights.get("identity", 0.0 if rest == 0 else None)
    ours = {name: weights.get(name, rest or 0.0) for name in codings()}
    best = max(ours, key=lambda name: ours[name])
    if ours[best] <= 0 or (identity is not None and identity > ours[best]):
        return None, False
    return best, identity == 0


def _weights(accept_encoding: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for element in accept_encoding[:1000].lower().split(","):
        name, _, parameters = element.partition(";")
        name = ALIASES.get(name.strip(), name.strip())
        key, _, value = parameters.partition("=")
        try:
            weight = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weight = 0.0
        if name:
            weights[name] = weight if 0 <= weight <= 1 else 0.0
    return weights


async def compressed(
    reply: Reply, accept_encoding: bytes | None, collect: Collect, min_bytes: int = MIN_REPLY_BYTES
) -> Reply:
    """The reply in the coding that the client prefers, where it has at least `min_bytes` and becomes much smaller.

    A reply of that size says `Vary: Accept-Encoding`, compressed or not. One the client refuses without a coding gets
    one whatever its size.
    """
    coding, must = chosen_coding(accept_encoding)
    if len(reply.body) < min_bytes and not must:
        return reply
    headers = [*reply.headers, (b"vary", b"accept-encoding")]
    if coding is None or not (must or is_worth_it(reply.body, coding)):
        return replace(reply, headers=headers)
    steps = compression_steps(reply.body, coding)
    parts = await collect(steps) if len(reply.body) > SAMPLE_BYTES else [part for some in steps for part in some]
    return replace(reply, body=b"".join(parts), headers=[*headers, (b"content-encoding", coding.encode())])


def is_worth_it(body: bytes, coding: str) -> bool:
    """Whether a sample from the middle of the body shrinks by as much as makes up for the time."""
    start = max(0, (len(body) - SAMPLE_BYTES) // 2)
    sample = body[start : start + SAMPLE_BYTES]
    smaller = sum(len(part) for parts in compression_steps(sample, coding) for part in parts)
    return len(sample) >= LEAST_GAIN[coding] * smaller


def compression_steps(body: bytes, coding: str) -> Steps:
    """The compressed body in parts, each step of them made of STEP_BYTES."""
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW) if coding == "gzip" else zstd.ZstdCompressor(LEVEL)
    for start in range(0, len(body), STEP_BYTES):
        yield [compressor.compress(body[start : start + STEP_BYTES])]
    yield [compressor.flush()]
