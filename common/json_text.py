"""JSON bodies as clients really send them: with a byte order mark, and with halves of characters in their strings.

    body = without_bom(body)
    try:
        entries = orjson.loads(body)
    except orjson.JSONDecodeError:
        mended = without_lone_surrogates(body)   # None: that is not what is wrong with it
        ...

A text cut off inside a character that takes two UTF-16 units (an emoji, many ideographs) ends in a lone surrogate.
JavaScript, Java, C# and Python's `json` write it as `"\\ud83d"`, which RFC 8259 allows and parsers refuse, together
with all the other texts of the body. It becomes U+FFFD, the replacement character, as it does wherever such a text is
written as UTF-8. It is replaced in the bytes, which keep their length, so that every parser, and every limit of it,
stays what it is.
"""

import re
from typing import Any, Final

import orjson

BOM: Final = b"\xef\xbb\xbf"
UTF_16_OR_32: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00")
MAX_SURROGATES: Final = 200_000  # escapes of them in a body that is mended: 0.1 s; a pair has two
# Text that cannot stand in JSON takes the place of escaped backslashes, so that each `\u` left starts an escape.
HELD: Final = b"\x00\x01"

_HEX: Final = rb"[0-9a-fA-F]"
_HIGH: Final = rb"\\u[dD][89abAB]" + _HEX * 2
_LOW: Final = rb"\\u[dD][c-fC-F]" + _HEX * 2
_LONE_ESCAPE: Final = re.compile(
    rb"\\u[dD](?:[89abAB]" + _HEX * 2 + rb"(?!" + _LOW + rb")|(?<!" + _HIGH + rb"\\u[dD])[c-fC-F]" + _HEX * 2 + rb")"
)
_ENCODED: Final = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # a surrogate in UTF-8's pattern, which UTF-8 has not


class NotUtf8(ValueError):
    """A body in another encoding than UTF-8."""


class TooManySurrogates(ValueError):
    """A body with a lone surrogate, and too many escapes to mend it at a bearable cost."""


def without_bom(body: bytes) -> bytes:
    """The body without a byte order mark of UTF-8. Raises NotUtf8 where it is UTF-16 or UTF-32."""
    if body.startswith(BOM):
        return body[len(BOM) :]
    # A body of JSON starts with ASCII, whose other half, in these encodings, is a nought.
    if body.startswith(UTF_16_OR_32) or body[1:2] == b"\x00":
        raise NotUtf8("the body is UTF-16 or UTF-32: send JSON as UTF-8")
    return body


def without_lone_surrogates(body: bytes) -> bytes | None:
    """The body with U+FFFD for each surrogate that is not one of a pair; None when it has none.

    In escapes (`\\ud83d`), and in bytes as of `text.encode("utf-8", "surrogatepass")`. Takes for granted that the body
    is JSON but for that: what is wrong with it otherwise stays. Raises TooManySurrogates.
    """
    mended = _ENCODED.sub(b"\xef\xbf\xbd", body) if b"\xed" in body else body
    escapes = mended.count(rb"\ud") + mended.count(rb"\uD")
    if escapes > MAX_SURROGATES:
        raise TooManySurrogates(
            f"the body has half a character among {escapes} escapes of surrogates: "
            "send text as UTF-8 instead of escapes, or less at once"
        )
    if escapes and HELD not in mended:
        held = mended.replace(rb"\\", HELD)
        mended = _LONE_ESCAPE.sub(rb"\\ufffd", held).replace(HELD, rb"\\")
    return mended if mended != body else None


def loads(body: bytes) -> Any:
    """orjson.loads of a body with a byte order mark or lone surrogates.

    Raises orjson.JSONDecodeError, NotUtf8, TooManySurrogates, all of them ValueError.
    """
    body = without_bom(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        mended = without_lone_surrogates(body)
        if mended is None:
            raise
    return orjson.loads(mended)
