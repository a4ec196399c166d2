"""Vectors as int8, uint8, binary and ubinary: the field's conventions, to the byte."""

from base64 import b64decode

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.routes.output_types import (
    Output,
    OutputType,
    as_json,
    check_dimensions,
    decodes_base64_as_float32,
    quantised,
    unquantised,
    wanted_output,
)
from gateway.routes.schemas import float_array

Floats = npt.NDArray[np.float32]
INTEGERS = [OutputType.INT8, OutputType.UINT8, OutputType.BINARY, OutputType.UBINARY]


def unit_vectors(n: int, dimensions: int, seed: int = 0, spread: float = 0.0) -> list[bytes]:
    """Unit vectors as they are stored; `spread` makes some coordinates much larger than others."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(n, dimensions)) * np.exp(spread * draw.normal(size=(n, dimensions)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [row.astype("<f4").tobytes() for row in rows]


def floats(vector: bytes) -> Floats:
    """The numbers of a stored vector."""
    return np.frombuffer(vector, dtype="<f4")


def test_int8_is_scaled_and_never_cut_off() -> None:
    """limit is 6 / sqrt(d) for usual vectors, and the largest coordinate where that is greater."""
    usual = np.zeros(400, "<f4")
    usual[:4] = [0.15, -0.15, 0.3, -0.0012]  # 6 / sqrt(400) = 0.3; 127 * 0.5 = 63.5 rounds to even
    large = np.zeros(400, "<f4")
    large[:3] = [-1, 0.5, 0.25]
    made = [np.frombuffer(one, "i1")[:4].tolist() for one in quantised([usual.tobytes(), large.tobytes()], INTEGERS[0])]
    assert made == [[64, -64, 127, -1], [-127, 64, 32, 0]]


def test_uint8_is_int8_moved_by_128() -> None:
    """As with sentence-transformers: the same buckets, counted from 0; nought is 128."""
    vectors = [*unit_vectors(5, 48), bytes(48 * 4)]
    signed = np.frombuffer(b"".join(quantised(vectors, OutputType.INT8)), "i1").astype(int)
    unsigned = np.frombuffer(b"".join(quantised(vectors, OutputType.UINT8)), "u1").astype(int)
    assert (unsigned == signed + 128).all()
    assert (unsigned[-48:] == 128).all()
    assert signed.min() >= -127


def test_bits_are_packed_as_sentence_transformers_packs_them() -> None:
    """The first dimension in the highest bit, 1 above nought only; binary is ubinary less 128."""
    vector = np.array([0.1, -0.1, 0, 0.2, -0.0, 0, 0, 0.3] + [-0.1] * 7 + [0.1], "<f4").tobytes()
    assert np.frombuffer(quantised([vector], OutputType.UBINARY)[0], "u1").tolist() == [0b10010001, 0b00000001]
    assert np.frombuffer(quantised([vector], OutputType.BINARY)[0], "i1").tolist() == [145 - 128, 1 - 128]


@pytest.mark.parametrize("dimensions", [8, 32, 384, 1024])
def test_the_words_of_the_formulas_hold(dimensions: int) -> None:
    """What sentence-transformers' quantize_embeddings computes for bits, written as there, over many rows at once."""
    vectors = unit_vectors(600, dimensions)
    rows = np.array([floats(one) for one in vectors])
    ubinary = np.packbits(rows > 0).reshape(rows.shape[0], -1)
    binary = (ubinary.astype(np.int16) - 128).astype(np.int8)
    assert quantised(vectors, OutputType.UBINARY) == [row.tobytes() for row in ubinary]
    assert quantised(vectors, OutputType.BINARY) == [row.tobytes() for row in binary]


@given(st.integers(0, 10_000), st.sampled_from([16, 64, 384]), st.sampled_from([0.0, 1.0, 2.0]))
def test_a_vector_divided_by_its_length_is_the_vector(seed: int, dimensions: int, spread: float) -> None:
    """The client needs no scale, also where a few coordinates hold nearly all of the length."""
    for vector in unit_vectors(3, dimensions, seed, spread):
        for to in (OutputType.INT8, OutputType.UINT8):
            again = unquantised(quantised([vector], to)[0], to)
            assert float(again @ floats(vector)) > 0.999


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_type_is_a_function_of_the_vector_alone(seed: int, position: int) -> None:
    """The same bytes beside other vectors, alone, and again; the opposite vector has the opposite numbers."""
    vectors = unit_vectors(6, 40, seed)
    for to in INTEGERS:
        assert quantised(vectors, to)[position] == quantised([vectors[position]], to)[0]
    opposite = (-floats(vectors[0])).tobytes()
    one, other = (np.frombuffer(part, "i1") for part in quantised([vectors[0], opposite], OutputType.INT8))
    assert (one == -other).all()


def test_inner_products_of_int8_rank_as_those_of_the_vectors() -> None:
    """Usual vectors of one size share a scale, so an index of int8 vectors may use inner product or distance."""
    vectors = unit_vectors(200, 384)
    rows = np.array([floats(one) for one in vectors])
    numbers = np.array([np.frombuffer(one, "i1") for one in quantised(vectors, OutputType.INT8)], dtype=np.float64)
    lengths = np.linalg.norm(numbers, axis=1)
    assert lengths.std() / lengths.mean() < 0.002
    scale = (6 / np.sqrt(384) / 127) ** 2
    assert np.abs(numbers @ numbers.T * scale - rows @ rows.T).max() < 0.005


def test_signs_come_back_from_bits() -> None:
    """Bits stand for +1 and -1."""
    vector = unit_vectors(1, 64)[0]
    for to in (OutputType.BINARY, OutputType.UBINARY):
        again = unquantised(quantised([vector], to)[0], to)
        assert (np.sign(again) == np.sign(floats(vector))).all()
        assert np.linalg.norm(again) == pytest.approx(1)


@pytest.mark.parametrize("to", list(OutputType))
def test_json_and_base64_hold_the_same_numbers(to: OutputType) -> None:
    """An array of numbers, or base64 of their bytes; float as it is today, to the byte."""
    vectors = unit_vectors(300, 24)
    dtype = {"float": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}[to]
    for content, number_list, text in zip(
        quantised(vectors, to), as_json(vectors, to, False), as_json(vectors, to, True), strict=True
    ):
        assert np.array_equal(np.array(orjson.loads(number_list), dtype), np.frombuffer(content, dtype))
        assert b64decode(orjson.loads(text)) == content
    if to is OutputType.FLOAT:
        assert as_json(vectors, to, False) == [float_array(one) for one in vectors]


def test_nothing_to_quantise_is_nothing() -> None:
    """An empty batch, and float, which stays what it is."""
    vectors = unit_vectors(2, 8)
    assert quantised([], OutputType.INT8) == []
    assert quantised(vectors, OutputType.FLOAT) == vectors


def test_dimensions_must_fill_their_bytes() -> None:
    """Packed types name the sizes next to it; the others take any size."""
    check_dimensions([OutputType.INT8, OutputType.UINT8, OutputType.FLOAT], 13)
    check_dimensions(list(OutputType), 16)
    for dimensions, near in ((13, "8 or 16"), (7, "send 8"), (383, "376 or 384")):
        with pytest.raises(BadRequest, match=near) as refusal:
            check_dimensions([OutputType.FLOAT, OutputType.UBINARY], dimensions)
        assert refusal.value.param == "dimensions"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Output()),
        ({"output_dtype": None, "embedding_types": None}, Output()),
        ({"output_dtype": "float"}, Output()),
        ({"output_dtype": "int8"}, Output((OutputType.INT8,))),
        ({"output_dtype": "ubinary", "embedding_type": None}, Output((OutputType.UBINARY,))),
        ({"embedding_type": "binary"}, Output((OutputType.BINARY,))),
        ({"embedding_type": "base64"}, Output(as_base64=True)),
        ({"embedding_type": ["float"]}, Output()),
        ({"embedding_types": ["uint8"]}, Output((OutputType.UINT8,))),
        ({"embedding_types": ["uint8", "uint8"]}, Output((OutputType.UINT8,))),
        ({"output_dtype": "int8", "embedding_types": ["int8"]}, Output((OutputType.INT8,))),
    ],
)
def test_each_provider_s_field_is_understood(fields: dict[str, str | list[str] | None], expected: Output) -> None:
    """Mistral's and Voyage's, Jina's and Cohere's; two that agree are as good as one."""
    assert wanted_output(fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"output_dtype": "int4"}, "output_dtype", "float, int8, uint8, binary or ubinary"),
        ({"output_dtype": ""}, "output_dtype", "must be"),
        ({"embedding_type": "Float"}, "embedding_type", "must be"),
        ({"embedding_types": []}, "embedding_types", "empty"),
        ({"embedding_types": ["float", "int8"]}, "embedding_types", "ask for one"),
        ({"embedding_types": ["base64", "int8"]}, "embedding_types", "alone"),
        ({"output_dtype": "int8", "embedding_type": "binary"}, "output_dtype", "different types"),
        ({"output_dtype": "float", "embedding_type": "base64"}, "output_dtype", "different types"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, str | list[str]], param: str, message: str) -> None:
    """The error names the field and the remedy."""
    with pytest.raises(BadRequest, match=message) as refusal:
        wanted_output(fields)
    assert refusal.value.param == param


def test_base64_is_not_sent_to_who_would_take_it_for_floats() -> None:
    """openai's packages ask for base64 unasked, and would make a quarter as many floats of int8 bytes."""
    fields = {"output_dtype": "int8"}
    openai = decodes_base64_as_float32({b"user-agent": b"OpenAI/Python 2.0", b"x-stainless-lang": b"python"})
    voyage = decodes_base64_as_float32({b"user-agent": b"voyageai"})
    assert not wanted_output(fields, "base64", openai).as_base64
    assert wanted_output({}, "base64", openai).as_base64
    assert wanted_output(fields, "base64", voyage).as_base64
    assert not wanted_output(fields, "float", voyage).as_base64


def test_the_openai_package_gets_what_it_asked_for() -> None:
    """The real package's header is the one that is looked for, and its request has base64 unasked."""
    httpx, openai = pytest.importorskip("httpx"), pytest.importorskip("openai")
    vector = unit_vectors(1, 16)[0]

    def answer(request: "httpx.Request") -> "httpx.Response":
        sent = orjson.loads(request.content)
        headers = {name.lower(): value for name, value in request.headers.raw}
        assert sent["encoding_format"] == "base64"
        output = wanted_output(
            {"output_dtype": sent.get("output_dtype")}, sent["encoding_format"], decodes_base64_as_float32(headers)
        )
        part = as_json([vector], output.types[0], output.as_base64)[0]
        data = [{"object": "embedding", "index": 0, "embedding": orjson.loads(part)}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return httpx.Response(200, json={"object": "list", "data": data, "model": "m", "usage": usage})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = openai.OpenAI(base_url="http://gateway/v1", api_key="k", http_client=http)
        made = client.embeddings.create(model="m", input="x", extra_body={"output_dtype": "int8"})
        assert made.data[0].embedding == np.frombuffer(quantised([vector], OutputType.INT8)[0], "i1").tolist()
        made = client.embeddings.create(model="m", input="x")
        assert made.data[0].embedding == floats(vector).tolist()
