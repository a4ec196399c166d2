"""The wire: what one side encodes the other decodes, and nothing else passes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import (
    MAX_REQUEST_ITEMS,
    EngineInfo,
    Lane,
    ProtocolError,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

token_st = st.integers(0, 2**31 - 1)
texts_st = st.lists(st.lists(token_st, min_size=1, max_size=20), min_size=1, max_size=20)


@given(texts_st, st.sampled_from(Lane))
def test_a_request_survives_the_wire(texts: list[list[int]], lane: Lane) -> None:
    """Decoding what was encoded gives the same token ids, lengths and lane."""
    batch = decode_request(encode_request(texts, lane))
    assert batch.lane is lane
    assert batch.lengths.tolist() == [len(text) for text in texts]
    assert batch.input_ids.tolist() == [token for text in texts for token in text]


@given(st.integers(0, 5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_response_survives_the_wire(count: int, dimensions: int, random: object) -> None:
    """Vectors come back to the bit."""
    vectors = np.random.default_rng(count * 7 + dimensions).normal(size=(count, dimensions)).astype(np.float32)
    assert decode_response(encode_response(vectors)).tobytes() == vectors.tobytes()


@given(st.binary(max_size=200))
def test_garbage_is_refused(body: bytes) -> None:
    """Bytes that nobody encoded raise ProtocolError and nothing else."""
    for prefix in (b"", b"DVQ1", b"DVQ1\x00\x00\x00\x00"):
        try:
            batch = decode_request(prefix + body)
        except ProtocolError:
            continue
        assert int(batch.lengths.sum()) == len(batch.input_ids)


@given(texts_st, st.data())
def test_a_cut_request_is_refused(texts: list[list[int]], data: st.DataObject) -> None:
    """A body that ends early raises ProtocolError wherever it was cut."""
    body = encode_request(texts)
    with pytest.raises(ProtocolError):
        decode_request(body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (encode_request([[1]])[:4] + b"\x07\0\0\0" + encode_request([[1]])[8:], "lane 7"),
        (encode_request([]), "0 texts"),
        (encode_request([[1]] * (MAX_REQUEST_ITEMS + 1)), "2049 texts"),
        (encode_request([[1], []]), "without tokens"),
        (encode_request([[2**31]]), "token id"),
        (encode_request([[1]]) + b"\0", "bytes"),
        (b"DVQ1" + b"\0\0\0\0" + b"\2\0\0\0" + b"\xff" * 8, "add up"),
    ],
)
def test_a_refusal_names_its_reason(body: bytes, reason: str) -> None:
    """Each illegal message is refused with words that say what is wrong with it."""
    with pytest.raises(ProtocolError, match=reason):
        decode_request(body)


@pytest.mark.parametrize("cut", [0, 3, 11, 15])
def test_a_cut_response_is_refused(cut: int) -> None:
    """An answer that ends early raises ProtocolError."""
    with pytest.raises(ProtocolError):
        decode_response(encode_response(np.ones((1, 2), np.float32))[:cut])


def test_information_survives_the_wire() -> None:
    """EngineInfo comes back equal, and fields of a later version are ignored."""
    info = EngineInfo("m", "f", "fp32", 2, 16, 2048, 32768, {"query": "q: "}, "query", "cpu")
    assert EngineInfo.from_json(info.to_json()) == info
    assert EngineInfo.from_json(info.to_json()[:-1] + b',"later":1}') == info


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"7", b'{"model":"m"}', b'"model"'])
def test_what_is_no_information_is_refused(body: bytes) -> None:
    """Anything but an engine's information raises ProtocolError."""
    with pytest.raises(ProtocolError):
        EngineInfo.from_json(body)
