"""Input given as token ids: decoded by a named tiktoken encoding where the operator chose one, refused otherwise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from gateway.errors import BadRequest
from gateway.routes.schemas import TEXT_ONLY_MESSAGE
from gateway.token_encodings import TokenEncodingError, load_encoding

DECODED_AT_ONCE: Final = 16  # texts, in one step

Decode = Callable[[Sequence[int]], str]


class TokenInputError(Exception):
    """The chosen encoding cannot be used; the message has what to install or change."""


def decoder_for(encoding: str | None, file: Path | None = None, may_fetch: bool = False) -> Decode | None:
    """A function from token ids to text; None when no encoding is set. Raises TokenInputError.

    Where the encoding's file comes from: see `gateway.token_encodings`.
    """
    if encoding is None:
        return None
    try:
        decode: Decode = load_encoding(encoding, file, may_fetch).decode
    except TokenEncodingError as error:
        raise TokenInputError(str(error)) from None
    return decode


def texts_of(token_ids: Sequence[Sequence[int]], decode: Decode | None) -> list[str]:
    """The texts these ids stand for. Raises BadRequest naming the client setting to change."""
    if decode is None:
        raise BadRequest(TEXT_ONLY_MESSAGE, param="input")
    try:
        texts = [decode(ids) for ids in token_ids]
    except (KeyError, ValueError, OverflowError) as error:
        raise BadRequest("input holds a token id that the encoding does not have", param="input") from error
    if not all(texts):
        raise BadRequest("input holds token ids that decode to an empty string", param="input")
    return texts


def decoding_steps(token_ids: Sequence[Sequence[int]], decode: Decode) -> Iterator[list[str]]:
    """The same, some texts at a time."""
    for start in range(0, len(token_ids), DECODED_AT_ONCE):
        yield texts_of(token_ids[start : start + DECODED_AT_ONCE], decode)
