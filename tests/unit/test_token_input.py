"""Input given as token ids: refused with what to change, or decoded by a real tiktoken encoding."""

import sys

import pytest
import tiktoken

from gateway.errors import BadRequest
from gateway.routes.token_input import Decode, TokenInputError, decoder_for, decoding_steps, texts_of
from tests.byte_encoding import NAME, byte_encoding


@pytest.fixture
def decode(monkeypatch: pytest.MonkeyPatch) -> Decode:
    """What decoder_for gives for an encoding that is at hand; tiktoken would fetch its own."""
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {NAME: byte_encoding()}[name])
    decode = decoder_for(NAME, may_fetch=True)
    assert decode is not None
    return decode


def test_no_encoding_is_no_decoder() -> None:
    """Unset means that token ids are refused."""
    assert decoder_for(None) is None


@pytest.mark.parametrize(
    "setting", ["check_embedding_ctx_length=False", "LlamaIndex", "Haystack", "tiktoken", "token_input_encoding"]
)
def test_the_refusal_names_what_to_change(setting: str) -> None:
    """LangChain's parameter by name, the other clients, and the gateway's own setting."""
    with pytest.raises(BadRequest) as refusal:
        texts_of([[1, 2]], None)
    assert setting in refusal.value.message
    assert refusal.value.param == "input"


@pytest.mark.parametrize("text", ["hello", "Grüße, 電車 🚆", "a\n\tb", " leading", "x" * 5000, "<|endoftext|>"])
def test_ids_become_their_text(decode: Decode, text: str) -> None:
    """What a client encoded comes back, whatever the script; text that looks like a special token is text."""
    ids = byte_encoding().encode_ordinary(text)
    assert texts_of([ids, ids], decode) == [text, text]


@pytest.mark.parametrize("bad", [300, 257, 100_257, 2**31 - 1, 2**31, 2**64, -1])
def test_unknown_ids_are_refused(decode: Decode, bad: int) -> None:
    """An id the encoding does not know is the client's error, and says so without a trace."""
    with pytest.raises(BadRequest, match="does not have") as refusal:
        texts_of([[104], [104, bad]], decode)
    assert refusal.value.param == "input"


def test_many_texts_are_decoded_in_steps(decode: Decode) -> None:
    """The same texts in the same order; one that is refused ends it."""
    ids = [byte_encoding().encode_ordinary(f"text {number}") for number in range(100)]
    steps = list(decoding_steps(ids, decode))
    assert len(steps) > 5
    assert [text for step in steps for text in step] == texts_of(ids, decode)
    with pytest.raises(BadRequest):
        list(decoding_steps([*ids, [300]], decode))


def test_half_a_character_is_replaced(decode: Decode) -> None:
    """Clients that cut long texts into chunks of ids may cut inside a character; the rest of the text survives."""
    ids = byte_encoding().encode_ordinary("ok電")
    assert texts_of([ids[:-1]], decode) == ["ok�"]


def test_ids_of_nothing_are_refused(decode: Decode) -> None:
    """An encoding may decode ids to an empty string; that is refused like any empty string."""
    with pytest.raises(BadRequest, match="empty"):
        texts_of([[104], []], decode)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is told to decode and cannot does not start silently."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(TokenInputError, match=r'.venv/bin/pip install -e "\.\[tiktoken\]"'):
        decoder_for(NAME)


def test_an_unknown_encoding_is_named(decode: Decode) -> None:
    """So is an encoding that does not exist or cannot be fetched."""
    with pytest.raises(TokenInputError, match="no-such-encoding"):
        decoder_for("no-such-encoding", may_fetch=True)
