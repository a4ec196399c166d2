"""The engine's wire protocol: what the gateway sends, what the engine answers.

`POST /vectors`, content type `application/x-dejavec`, little-endian:

    request    b"DVQ1" | uint32 lane | uint32 n | uint32 lengths[n] | uint32 input_ids[sum(lengths)]
    response   b"DVV1" | uint32 n | uint32 dimensions | float32 vectors[n, dimensions]

The same route takes `application/json` for people: `{"texts": [...]}` or `{"input_ids": [[...]]}`, answered by
`{"embeddings": [[...]], "fingerprint": "..."}`. Errors are JSON on both: `{"error": {"message", "type"}}`.
Every answer carries the fingerprint of what computed it in `x-dejavec-fingerprint`; a caller may send the one it
expects in the same header and is refused with 409 (`fingerprint_mismatch`) when it is another.
`GET /info` answers `EngineInfo` as JSON, `GET /tokenizer.json` and `GET /static-embedding` the bundle's files byte for
byte.
"""

import enum
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

CONTENT_TYPE = "application/x-dejavec"
FINGERPRINT_HEADER = "x-dejavec-fingerprint"
RATE_HEADER = "x-dejavec-run-tokens-per-second"  # of an answer: what one run of the model does, measured lately
ALL_RUNS_RATE_HEADER = "x-dejavec-tokens-per-second"  # likewise of all runs side by side; also on /ready
QUEUE_HEADER = "x-dejavec-queued-tokens"  # of an answer: tokens that wait, whoever sent them; also on /ready
DEADLINE_HEADER = "x-dejavec-deadline-ms"  # time the caller will still wait; the engine drops what outlives it

VECTORS_PATH = "/vectors"
INFO_PATH = "/info"
TOKENIZER_PATH = "/tokenizer.json"
STATIC_EMBEDDING_PATH = "/static-embedding"

REQUEST_MAGIC = b"DVQ1"
RESPONSE_MAGIC = b"DVV1"
MAX_REQUEST_ITEMS = 2048  # OpenAI's limit on inputs in one request

Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


class ProtocolError(ValueError):
    """Bytes that are not a message of this protocol; the message has what is wrong with them."""


class Lane(enum.IntEnum):
    """Which queue a request joins: INTERACTIVE runs ahead of BULK, which is never starved."""

    INTERACTIVE = 0
    BULK = 1


LANES = {int(lane): lane for lane in Lane}


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Ragged token ids of n texts: text i is `input_ids[offset_i : offset_i + lengths[i]]`.

    input_ids: int32[sum(lengths)], possibly read-only; lengths: int32[n], each at least 1.
    """

    input_ids: Int32Array
    lengths: Int32Array
    lane: Lane = Lane.INTERACTIVE


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What `GET /info` answers: all that a gateway needs of the model."""

    model: str
    fingerprint: str  # hex; of weights, tokenizer, recipe, pooling, length and kernel class: see engine.bundle
    kernel_class: str  # "int8-exact", "fp32", "fp16-cpu", "fp16-cuda", "fp32-cuda"
    dimensions: int
    max_tokens: int  # longest text in tokens, special tokens included; longer ones are truncated by the tokenizer
    max_request_items: int
    max_request_tokens: int
    prompts: dict[str, str] = field(default_factory=dict)  # name ("query", "document") -> text put in front
    default_prompt_name: str | None = None
    device: str = "cpu"
    source: str = ""  # hub id, or name of the folder, that the bundle was built from
    pooling: str = ""  # "mean", "cls" or "last"
    matryoshka_dims: list[int] | None = None  # sizes it was trained for besides its own; None: not known
    matryoshka_layer_norm: bool = False  # a shortened vector is cut after a layer norm: `common.matryoshka`
    static_embedding_sha256: str = ""  # of what STATIC_EMBEDDING_PATH answers; empty when the bundle has none

    def to_json(self) -> bytes:
        """This information as the body of `GET /info`."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, body: bytes) -> "EngineInfo":
        """Parse the body of `GET /info`; unknown fields are ignored. Raises ProtocolError."""
        try:
            entries = orjson.loads(body)
            return cls(**{f.name: entries[f.name] for f in fields(cls) if f.name in entries})
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise ProtocolError(f"not an engine's information: {error}") from None


def encode_request(input_ids: Sequence[Sequence[int] | Int32Array], lane: Lane = Lane.INTERACTIVE) -> bytes:
    """Token ids of n texts (each a sequence of ints or an int32 array) as one request body."""
    lengths = np.fromiter(map(len, input_ids), dtype="<u4", count=len(input_ids))
    header = np.array([lane, len(input_ids)], dtype="<u4")
    parts = [REQUEST_MAGIC, header.tobytes(), lengths.tobytes()]
    parts += [np.asarray(ids, dtype="<u4").tobytes() for ids in input_ids]
    return b"".join(parts)


def decode_request(body: bytes) -> TokenBatch:
    """Parse a request body. Raises ProtocolError on anything that `encode_request` would not have written."""
    if len(body) < 12 or body[:4] != REQUEST_MAGIC:
        raise ProtocolError(f"the body does not start with {REQUEST_MAGIC!r} and a count")
    lane, count = struct.unpack_from("<2I", body, 4)
    if lane not in LANES:
        raise ProtocolError(f"lane {lane} is unknown; use 0 (interactive) or 1 (bulk)")
    if not 1 <= count <= MAX_REQUEST_ITEMS:
        raise ProtocolError(f"{count} texts in one request; send 1 to {MAX_REQUEST_ITEMS}")
    if len(body) < 12 + 4 * count:
        raise ProtocolError("the body ends inside the lengths")
    lengths = struct.unpack_from(f"<{count}I", body, 12)  # cheaper than numpy's reductions for the usual few
    total = sum(lengths)
    if len(body) != 12 + 4 * count + 4 * total:
        raise ProtocolError(f"the body has {len(body)} bytes where its lengths add up to {12 + 4 * (count + total)}")
    if min(lengths) == 0:
        raise ProtocolError("a text without tokens; a tokenizer gives at least its special tokens")
    ids = np.frombuffer(body, dtype="<i4", offset=12 + 4 * count).astype(np.int32, copy=False)
    if int(ids.min()) < 0:
        raise ProtocolError("a token id above 2,147,483,647")
    return TokenBatch(ids, np.array(lengths, dtype=np.int32), LANES[lane])


def encode_response(vectors: Float32Array) -> bytes:
    """float32[n, dimensions] as one response body."""
    header = np.array(vectors.shape, dtype="<u4")
    return b"".join((RESPONSE_MAGIC, header.tobytes(), np.ascontiguousarray(vectors, dtype="<f4").tobytes()))


def decode_response(body: bytes) -> Float32Array:
    """Parse a response body into read-only float32[n, dimensions]. Raises ProtocolError."""
    if len(body) < 12 or body[:4] != RESPONSE_MAGIC:
        raise ProtocolError(f"the answer does not start with {RESPONSE_MAGIC!r} and its shape")
    count, dimensions = (int(word) for word in np.frombuffer(body, dtype="<u4", count=2, offset=4))
    if len(body) != 12 + 4 * count * dimensions:
        raise ProtocolError(f"the answer has {len(body)} bytes, not those of {count} x {dimensions} float32")
    return np.frombuffer(body, dtype="<f4", offset=12).reshape(count, dimensions)


def error_body(message: str, kind: str) -> bytes:
    """The JSON body of every engine error."""
    payload: dict[str, Any] = {"error": {"message": message, "type": kind}}
    return orjson.dumps(payload)
