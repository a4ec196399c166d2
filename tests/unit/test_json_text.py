"""JSON bodies with byte order marks and lone surrogates: read as other software would show them."""

import json
import re

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from common.json_text import MAX_SURROGATES, NotUtf8, TooManySurrogates, loads, without_bom, without_lone_surrogates

# All characters, and, unlike hypothesis's own default, the surrogates.
ANY_TEXT = st.text(st.characters(exclude_categories=()))
HALVES = st.text(st.sampled_from('\ud83d\ude00\udbff\udc00\ud800\udfff\\"uD8a0\n/é😀 \x00'), max_size=12)


def shown(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, by Python's own UTF-16."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return re.sub("[\ud800-\udfff]", "�", joined)


@given(st.one_of(ANY_TEXT, HALVES), st.booleans())
@example("\ud800\ud800\udc00\udc00", False)
@example("\\\ud800", True)
@example("\\ud800", True)
def test_lone_surrogates_become_the_replacement_character(text: str, marked: bool) -> None:
    """Escaped, as json.dumps writes them; pairs and everything else stay, also text that looks like an escape."""
    body = json.dumps({"input": [text, "plain"], text: 1}).encode()
    expected = {"input": [shown(text), "plain"], shown(text): 1}
    assert loads(b"\xef\xbb\xbf" + body if marked else body) == expected
    mended = without_lone_surrogates(body)
    assert mended is None or len(mended) == len(body)


@given(st.one_of(ANY_TEXT, HALVES))
def test_so_do_encoded_ones(text: str) -> None:
    """As json.dumps(ensure_ascii=False) and surrogatepass write them: each is one, since UTF-8 knows no pairs."""
    body = json.dumps([text], ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert loads(body) == [re.sub("[\ud800-\udfff]", "�", text)]


@given(st.text())
def test_text_without_any_is_not_touched(text: str) -> None:
    """The function says so, and finds the text as it is."""
    for ascii_only in (True, False):
        body = json.dumps([text], ensure_ascii=ascii_only).encode()
        assert without_lone_surrogates(body) is None
        assert loads(body) == [text]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (r'"a\ud83d"', "a�"),
        (r'"\uD83D\uDE00"', "😀"),
        (r'"\ude00\ud83d"', "��"),
        (r'"\ud83d\u0041\ude00"', "�A�"),
        (r'"\ud83d\\ude00"', "�\\ude00"),
        (r'"\\ud83d\ude00"', "\\ud83d�"),
        (r'"\\\ud83d"', "\\�"),
        (r'"\\\\ud83d"', "\\\\ud83d"),
        (r'"\ud83d\"\ude00"', '�"�'),
        (r'"\ud83d😀"', "�😀"),
    ],
)
def test_escapes_are_told_from_what_looks_like_them(source: str, expected: str) -> None:
    """By the backslashes in front of them; a pair is two escapes side by side."""
    assert loads(source.encode()) == expected


def test_every_parser_in_use_reads_what_was_mended() -> None:
    """The small bodies' parser is pydantic's, the large ones' is orjson."""

    class Body(BaseModel):
        input: str

    body = rb'{"input": "cut \ud83d"}'
    with pytest.raises(ValueError, match="json_invalid"):
        Body.model_validate_json(body)
    mended = without_lone_surrogates(body)
    assert mended is not None
    assert Body.model_validate_json(mended).input == orjson.loads(mended)["input"] == "cut �"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_other_encodings_are_named(encoding: str) -> None:
    """With and without a byte order mark."""
    with pytest.raises(NotUtf8, match="send JSON as UTF-8"):
        without_bom('{"input": "ö"}'.encode(encoding))


def test_a_mark_is_dropped_once() -> None:
    """Only at the start; a body without one is the same object."""
    body = b'{"input": "\xef\xbb\xbf"}'
    assert without_bom(body) is body
    assert without_bom(b"\xef\xbb\xbf" + body) == body
    assert without_bom(b"") == b""
    assert without_bom(b"1") == b"1"


@pytest.mark.parametrize(
    "body", [b"", b"\xef\xbb\xbf", b"{", b'"\xff"', b'"\\ud83d', b'"\\ud83', b'"\\ud83d" x', b"\x01\\ud83d"]
)
def test_what_else_is_wrong_stays_wrong(body: bytes) -> None:
    """Nothing that is no JSON becomes some."""
    with pytest.raises(orjson.JSONDecodeError):
        loads(body)


@given(st.binary(max_size=40).map(lambda tail: b'["\\ud83d' + tail))
def test_no_bytes_make_it_fail_otherwise(body: bytes) -> None:
    """Whatever follows, the answer is JSON or a refusal."""
    try:
        loads(body)
    except ValueError:
        return


def test_mending_has_a_limit() -> None:
    """A body of escapes alone would cost a second; the message says what to send."""
    pairs = rb"\ud83d\ude00" * (MAX_SURROGATES // 2)
    assert loads(b'"' + pairs + b'"') == "😀" * (MAX_SURROGATES // 2)
    with pytest.raises(TooManySurrogates, match="as UTF-8"):
        loads(b'"' + pairs + rb"\ud83d" + b'"')
