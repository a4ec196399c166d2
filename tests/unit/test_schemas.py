"""What the embedding routes accept, what they say of the rest, and the bytes they answer."""

import base64
import json
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.errors import BadRequest, GatewayError, Unprocessable
from gateway.routes.output_types import OutputType, as_json
from gateway.routes.schemas import (
    LARGE_BODY_BYTES,
    MAX_INPUTS,
    MAX_TOKEN_IDS,
    EmbeddingsBody,
    EmbedInputsBody,
    EmbedTextsBody,
    TokenIds,
    array_reply,
    embeddings_reply,
    float_array,
    is_texts_shape,
    parse,
    parse_embed,
    shorten,
    texts_reply,
)

ODD = [0.1, -1e-30, 3.4028235e38, 1 / 3, -0.0, 1e-45]


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m", **fields})


def refusal(content: bytes, shape: Any = EmbeddingsBody) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        parse(content, shape)
    return caught.value


def padded(content: bytes) -> bytes:
    """The same JSON, large enough for the path of large bodies."""
    return content + b" " * (LARGE_BODY_BYTES + 1 - len(content))


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("given", ["a", ["a"], ["a", "", "b"][::2], ["電車", "a\x00b"], "a" * 100_000])
def test_texts_come_through_as_they_are(given: Any, size: str) -> None:
    """A string or a list of strings, whatever is in them, by either path."""
    content = body(input=given)
    assert parse(padded(content) if size == "large" else content, EmbeddingsBody).input == given


@pytest.mark.parametrize(("given", "lists"), [([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([0], [[0]])])
def test_token_ids_are_told_apart(given: Any, lists: Any) -> None:
    """One list of ids is one text."""
    parsed = parse(body(input=given), EmbeddingsBody).input
    assert isinstance(parsed, TokenIds)
    assert parsed == lists


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    "wrong",
    ["", [], [""], ["a", ""], None, 3, 1.5, True, {}, [None], [1, "a"], ["a", 1], [[]], [[1], []], [[1], "a"],
     [True], [-1], [1.5], [[-1]], [[[1]]], [2**31], [["a"]], [{}]],
)  # fmt: skip
def test_every_other_input_is_refused_by_name(wrong: Any, size: str) -> None:
    """Never anything but a BadRequest that names `input`, by either path."""
    content = body(input=wrong)
    error = refusal(padded(content) if size == "large" else content)
    assert (error.status, error.param) == (400, "input")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nul", b"\xff", b'{"a":1}x', b"[" * 100_000, b'{"a":' * 100_000, padded(b"{"), padded(b"\xff"),
     b"\xff\xfe{\x00}\x00", padded(b"\xff\xfe{\x00}\x00"), b"\xef\xbb\xbf{", b'{"model":"m","input":"\\ud80"}'],
)  # fmt: skip
def test_what_is_not_json_is_said_to_be_so(content: bytes) -> None:
    """Broken syntax, broken UTF-8, another encoding, and nesting without end."""
    error = refusal(content)
    assert error.status == 400
    assert "JSON" in error.message


def test_fields_given_as_null_are_as_if_not_given() -> None:
    """Clients send null for what their caller left out."""
    nulls = parse(body(input="a", encoding_format=None, dimensions=None, user=None, prompt_name=None), EmbeddingsBody)
    assert nulls == parse(body(input="a"), EmbeddingsBody)
    options = {"truncate": None, "input_type": None, "prompt_name": None, "dimensions": None}
    plain = parse(orjson.dumps({"inputs": "a"}), EmbedInputsBody)
    assert parse(orjson.dumps({"inputs": "a", **options}), EmbedInputsBody) == plain


@pytest.mark.parametrize("large", [False, True])
def test_half_a_character_and_a_byte_order_mark_do_not_cost_a_request(large: bool) -> None:
    """A text that was cut off inside an emoji ends in U+FFFD; the others of the body are as they were."""
    content = b'\xef\xbb\xbf{"model":"m","input":["a\\ud83d","b\\ud83d\\ude00"]}'
    assert parse(padded(content) if large else content, EmbeddingsBody).input == ["a\ufffd", "b\U0001f600"]


def test_fields_that_are_not_declared_are_kept_apart() -> None:
    """What they mean is for gateway.routes.fields; the model may be left out."""
    parsed = parse(b'{"input":"a","temperature":1}', EmbeddingsBody)
    assert (parsed.model, parsed.model_extra) == (None, {"temperature": 1})


def test_the_refusal_of_the_other_routes_is_422() -> None:
    """`/embed` follows text-embeddings-inference; what is not JSON at all is a 400 everywhere."""
    with pytest.raises(Unprocessable):
        parse(b'{"inputs": 3}', EmbedInputsBody, Unprocessable)
    with pytest.raises(BadRequest) as caught:
        parse(b"{", EmbedTextsBody, Unprocessable)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (body(input=["a"] * (MAX_INPUTS + 1)), "2049 inputs"),
        (body(input=[[1]] * (MAX_INPUTS + 1)), "2049 inputs"),
        (body(input=[1] * (MAX_TOKEN_IDS + 1)), "300001 token ids"),
        (body(input=[[1] * 200] * 1501), "300200 token ids"),
        (body(**{f"x{number}": 1 for number in range(10_000)}), "10001 fields"),
    ],
)
def test_more_than_is_legal_is_refused_before_each_item_is_looked_at(content: bytes, message: str) -> None:
    """A hostile body must not stop the event loop: two million unknown fields took pydantic 24 s, now 1 s."""
    assert message in refusal(content).message


ITEMS = 400_001
BOMBS = {
    "numbers": b"1," * ITEMS,
    "strings": b'"",' * 30_000,
    "lists": b"[]," * ITEMS,
    "objects": b"{}," * ITEMS,
    "fields": b"{%s}," % b",".join(b'"%d":1' % number for number in range(20_000)),
    "behind quotes": b'"%s",' % (rb"\"" * 40_000) + b"1," * ITEMS,
    "behind backslashes": b'"%s",' % (rb"\\" * 40_000) + b"1," * ITEMS,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value costs some 70 bytes and a moment in which nothing else runs, and there is room for millions."""
    content = b'{"model":"m","input":[%s]}' % BOMBS[bomb].removesuffix(b",")
    assert orjson.loads(content)["model"] == "m"
    monkeypatch.setattr("gateway.routes.schemas.orjson.loads", None)
    error = refusal(content)
    assert (error.status, "too many values" in error.message) == (400, True)
    with pytest.raises(Unprocessable, match="too many values"):
        parse_embed(content.replace(b"input", b"inputs"))


@pytest.mark.parametrize("sign", [",", "[", "{", '"', '",', "\\", '\\"', '[{,"\\'])
def test_a_text_may_be_full_of_such_signs(sign: str) -> None:
    """Within a string they are no values."""
    texts = [sign * 150_000, sign]
    assert parse(body(input=texts), EmbeddingsBody).input == texts


@pytest.mark.parametrize("size", ["small", "large"])
def test_embed_tells_its_shapes_apart(size: str) -> None:
    """By either path, and what is doubtful is refused as the first."""
    grown = padded if size == "large" else bytes
    assert parse_embed(grown(b'{"texts":["a"]}')) == EmbedTextsBody(texts=["a"])
    assert parse_embed(grown(b'{"inputs":"a"}')) == EmbedInputsBody(inputs="a")
    with pytest.raises(Unprocessable, match="inputs"):
        parse_embed(grown(b"{}"))
    with pytest.raises(BadRequest):
        parse_embed(grown(b"{"))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True, [], 2**70])
def test_dimensions_is_a_positive_integer(wrong: Any) -> None:
    """Nothing is taken for a number that is not one; how large it may be depends on the model."""
    if wrong == 2**70:
        content = b'{"model":"m","input":"a","dimensions":%d}' % wrong
        assert parse(content, EmbeddingsBody).dimensions == wrong
        return
    assert refusal(body(input="a", dimensions=wrong)).param == "dimensions"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"texts":["a"]}', True), (b'{"texts":3}', True), (b'{"inputs":"a","texts":"b"}', False),
     (b'{"inputs":1}', False), (b"[]", False), (b"{", False), (b'"texts"', False), (b"", False)],
)  # fmt: skip
def test_the_second_shape_is_told_by_texts_alone(content: bytes, expected: bool) -> None:
    """Anything doubtful is the first shape, and is refused as such."""
    assert is_texts_shape(content) is expected


def test_floats_survive_bit_for_bit() -> None:
    """As JSON and as base64, odd numbers included."""
    vector = np.array(ODD, dtype="<f4").tobytes()
    floats = json.loads(embeddings_reply(as_json([vector], OutputType.FLOAT, False), "m", 3))
    assert np.array(floats["data"][0]["embedding"], dtype="<f4").tobytes() == vector
    encoded = json.loads(embeddings_reply(as_json([vector], OutputType.FLOAT, True), "m", 3))
    assert base64.b64decode(encoded["data"][0]["embedding"]) == vector
    assert np.array(json.loads(array_reply([float_array(vector)]))[0], dtype="<f4").tobytes() == vector


def test_replies_are_whole_documents() -> None:
    """Positions, model and usage; a model's name with quotes cannot break out of its string."""
    name = 'm"},\\ 電'
    reply = json.loads(embeddings_reply([b"[0.0]"] * 3, name, 7))
    assert [item["index"] for item in reply["data"]] == [0, 1, 2]
    assert (reply["object"], reply["model"], reply["usage"]) == (
        "list", name, {"prompt_tokens": 7, "total_tokens": 7},
    )  # fmt: skip
    assert json.loads(texts_reply([b"[0.0]"], name, 1.23456)) == {
        "embeddings": [[0.0]], "model": name, "latency_ms": 1.235,
    }  # fmt: skip


def test_shortened_vectors_have_unit_length() -> None:
    """Slices are brought back to length one; a slice of zeros stays zeros rather than NaN."""
    vector = np.array([0.6, 0.0, 0.8], dtype="<f4").tobytes()
    (short,) = shorten([vector], 2)
    assert np.frombuffer(short, dtype="<f4").tolist() == [1.0, 0.0]
    assert shorten([vector], None) == shorten([vector], None, layer_norm=True) == [vector]
    (normed,) = shorten([vector], 2, layer_norm=True)  # less the mean: 0.1333, -0.4667, 0.3333
    assert np.frombuffer(normed, dtype="<f4") == pytest.approx([0.27472, -0.96152], abs=1e-4)
    (zeros,) = shorten([np.zeros(3, dtype="<f4").tobytes()], 2)
    assert np.frombuffer(zeros, dtype="<f4").tolist() == [0.0, 0.0]
