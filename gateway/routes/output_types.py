"""Vectors in other types than float32: int8, uint8, binary and ubinary, made of the float32 vectors that are stored.

    decoder = decodes_base64_as_float32(headers)
    output = wanted_output({"output_dtype": body.output_dtype}, body.encoding_format, decoder)
    check_dimensions(output.types, dimensions)
    parts = as_json(vectors, output.types[0], output.as_base64)  # one piece of JSON a vector, for the route's reply

A type is a pure function of the vector, so equal vectors have equal bytes, and whatever is stored serves all types.
`dimensions` comes first: shorten, then quantise. For a vector v of unit length with d dimensions:

    int8      round(v * 127 / limit), limit = max(|v|'s largest coordinate, 6 / sqrt(d) where that is below 1)
    uint8     int8 + 128; 128 stands for nought
    ubinary   a bit a dimension, 1 where v > 0, eight in a byte, the first dimension in the highest bit
    binary    ubinary - 128, as int8

So a client needs no scale: an int8 vector divided by its own length is the vector again (mean cosine similarity 0.9999,
docs/decisions/int8-output-scale.md), and `limit` is the same for nearly all vectors of one size, so inner products and
distances of int8 vectors rank as those of the vectors do. `unquantised` does it.

Packing is that of sentence-transformers' `quantize_embeddings` (`numpy.packbits(v > 0)`, binary: less 128), which
Cohere, Mistral, Voyage ("offset binary") and vLLM share; there is no type for dimensions that do not fill their bytes,
and none is padded. How others scale int8 is their own: sentence-transformers takes each dimension's range from a
calibration set, which a gateway has not.
"""

import enum
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson

from gateway.errors import BadRequest
from gateway.routes.schemas import float_array

INT8_MAX: Final = 127  # -128 is not used: a vector and its opposite have opposite bytes
WIDEST: Final = 6.0  # limit * sqrt(d); the largest coordinates of the default model's vectors reach 5.8
ZERO_UINT8: Final = 128
ROWS_AT_ONCE: Final = 256  # quantised together


class OutputType(enum.StrEnum):
    """The type of a vector's numbers, by the name that Cohere, Mistral, Voyage and sentence-transformers share."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"

    @property
    def is_packed(self) -> bool:
        """Whether eight dimensions share a byte."""
        return self in {OutputType.BINARY, OutputType.UBINARY}


BASE64: Final = "base64"  # Jina's and Cohere's name for float32 in base64, among the types
KNOWN: Final = frozenset({*OutputType, BASE64})
DTYPES: Final[dict[OutputType, str]] = {
    OutputType.FLOAT: "<f4",
    OutputType.INT8: "i1",
    OutputType.UINT8: "u1",
    OutputType.BINARY: "i1",
    OutputType.UBINARY: "u1",
}


@dataclass(frozen=True, slots=True)
class Output:
    """What a request wants: its types, at least one, in the order asked for; and whether vectors come as base64."""

    types: tuple[OutputType, ...] = (OutputType.FLOAT,)
    as_base64: bool = False


def wanted_output(
    fields: Mapping[str, str | Sequence[str] | None],
    encoding_format: str | None = None,
    float_decoder: bool = False,
) -> Output:
    """What a request asks for in those of its fields that name types; None is a field that was not sent.

    `fields`, by name: `output_dtype`, which is Mistral's and Voyage's name, `embedding_type`, Jina's, and
    `embedding_types`, Cohere's list. `encoding_format` is OpenAI's; with another type than float, base64 is that of the
    type's bytes, as Voyage has it. `float_decoder` is what `decodes_base64_as_float32` says of the client: such a one
    gets lists of what is not float.
    Raises BadRequest naming the field: an unknown type, fields that differ, more types than the one that replies have.
    """
    asked = {field: _types(field, names) for field, names in fields.items() if names is not None}
    if len(set(asked.values())) > 1:
        raise BadRequest(f"{' and '.join(asked)} ask for different types; send one of them", param=next(iter(asked)))
    field, (types, is_base64) = next(iter(asked.items()), ("", ((OutputType.FLOAT,), False)))
    if len(types) > 1:
        raise BadRequest(f"{field}: this route's reply has one type; ask for one", param=field)
    wants_base64 = is_base64 or encoding_format == BASE64
    return Output(types, wants_base64 and not (float_decoder and types != (OutputType.FLOAT,)))


def _types(field: str, named: str | Sequence[str]) -> tuple[tuple[OutputType, ...], bool]:
    """The types named, each once, and whether base64 of float is what they name."""
    names = [named] if isinstance(named, str) else list(named)
    if not names:
        raise BadRequest(f"{field} must not be empty", param=field)
    if not all(name in KNOWN for name in names):
        raise BadRequest(f"{field} must be float, int8, uint8, binary or ubinary", param=field)
    if BASE64 in names and len(set(names)) > 1:
        raise BadRequest(f"{field}: base64 is float in another form, and comes alone", param=field)
    types = (OutputType.FLOAT if name == BASE64 else OutputType(name) for name in names)
    return tuple(dict.fromkeys(types)), BASE64 in names


def decodes_base64_as_float32(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client is one that asks for base64 unasked and takes it for float32, whatever type was asked for.

    That is openai's own packages (they send `x-stainless-lang`), which put `encoding_format: base64` into every request
    that has none; lists they take as they come.
    """
    return b"x-stainless-lang" in headers


def check_dimensions(types: Sequence[OutputType], dimensions: int) -> None:
    """Raises BadRequest, naming `dimensions`, where bits of so many dimensions do not fill their bytes."""
    packed = next((one for one in types if one.is_packed), None)
    if packed is not None and dimensions % 8:
        below = dimensions // 8 * 8
        near = f"{below} or {below + 8}" if below else "8"
        raise BadRequest(
            f"{packed} packs eight dimensions into a byte, and {dimensions} is no multiple of 8: send {near}",
            param="dimensions",
        )


def quantised(vectors: Sequence[bytes], to: OutputType) -> list[bytes]:
    """Each vector's numbers in another type, as bytes; `vectors` are little-endian float32, all of one size.

    Packed types need a multiple of 8 dimensions: `check_dimensions`.
    """
    if to is OutputType.FLOAT or not vectors:
        return list(vectors)
    found: list[bytes] = []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        part = vectors[start : start + ROWS_AT_ONCE]
        rows = _packed(part, to) if to.is_packed else _scaled(part, to)
        found += [row.tobytes() for row in rows]
    return found


def unquantised(content: bytes, of: OutputType) -> npt.NDArray[np.float32]:
    """The unit vector that a vector of this type stands for, as a client computes it; float32[dimensions].

    Bits stand for +1 and -1. A vector of noughts stays one.
    """
    numbers = np.frombuffer(content, dtype=DTYPES[of])
    if of.is_packed:
        raw = (numbers.astype(np.int16) + ZERO_UINT8).astype(np.uint8) if of is OutputType.BINARY else numbers
        numbers = np.unpackbits(raw).astype(np.int16) * 2 - 1
    elif of is OutputType.UINT8:
        numbers = numbers.astype(np.int16) - ZERO_UINT8
    vector = numbers.astype(np.float32)
    length = np.linalg.norm(vector)
    return (vector / length if length > 0 else vector).astype(np.float32)


def as_json(vectors: Sequence[bytes], to: OutputType, as_base64: bool) -> list[bytes]:
    """Each float32 vector in this type, as a piece of JSON: an array of numbers, or base64 of their bytes."""
    if as_base64:
        return [b'"' + b64encode(content) + b'"' for content in quantised(vectors, to)]
    if to is OutputType.FLOAT:
        return [float_array(vector) for vector in vectors]
    return [_int_array(content, DTYPES[to]) for content in quantised(vectors, to)]


def _scaled(vectors: Sequence[bytes], to: OutputType) -> npt.NDArray[np.generic]:
    """int8[n, d] or uint8[n, d] of these vectors."""
    floats = _matrix(vectors)
    widest = min(1.0, WIDEST / math.sqrt(floats.shape[1]))
    limits = np.maximum(np.abs(floats).max(axis=1, keepdims=True), np.float32(widest))
    rows: npt.NDArray[np.int8] = np.rint(floats * (np.float32(INT8_MAX) / limits)).astype(np.int8)
    return rows if to is OutputType.INT8 else (rows.astype(np.int16) + ZERO_UINT8).astype(np.uint8)


def _packed(vectors: Sequence[bytes], to: OutputType) -> npt.NDArray[np.generic]:
    """int8[n, d / 8] or uint8[n, d / 8] of these vectors' signs."""
    rows: npt.NDArray[np.uint8] = np.packbits(_matrix(vectors) > 0, axis=1)
    return rows if to is OutputType.UBINARY else (rows.astype(np.int16) - ZERO_UINT8).astype(np.int8)


def _matrix(vectors: Sequence[bytes]) -> npt.NDArray[np.float32]:
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)


def _int_array(content: bytes, dtype: str) -> bytes:
    return orjson.dumps(np.frombuffer(content, dtype=dtype), option=orjson.OPT_SERIALIZE_NUMPY)
