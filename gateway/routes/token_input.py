"""Input given as token ids: decoded by a named tiktoken encoding where the operator chose one, refused otherwise."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gateway.errors import BadRequest
from gateway.routes.schemas import TEXT_ONLY_MESSAGE

DECODED_AT_ONCE: Final = 16  # texts, in one step

Decode = Callable[[Sequence[int]], str]


class TokenInputError(Exception):
    """The chosen encoding cannot be used; the message has what to install or change."""


def decoder_for(encoding: str | None) -> Decode | None:
    """A function from token ids to text; None when no encoding is set. Raises TokenInputError."""
    if encoding is None:
        return None
    try:
        tiktoken = importlib.import_module("tiktoken")
        chosen = tiktoken.get_encoding(encoding)
    except ImportError:
        raise TokenInputError("token_input_encoding needs the extra: pip install 'dejavec[tiktoken]'") from None
    except Exception as error:  # tiktoken fetches encodings and lets the transport's own exceptions through
        raise TokenInputError(f"token_input_encoding {encoding!r} cannot be loaded: {error}") from None
    decode: Decode = chosen.decode
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
