"""HTTP shapes in and out: what the embedding routes accept, and the bytes they answer.

Requests are parsed and checked by pydantic in one pass; `parse` turns its first complaint into a BadRequest that
names the field. Replies are assembled as bytes, since serialising a vector costs more than all the rest.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from common import json_text
from common.matryoshka import shortened
from gateway.errors import BadRequest, GatewayError, Unprocessable

TEXT_ONLY_MESSAGE: Final = (
    "input holds token ids, which are another model's: send text instead. "
    "LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False), the same for AzureOpenAIEmbeddings. "
    "openai, LlamaIndex, Haystack, LiteLLM: pass strings, not the output of tiktoken. "
    "Or set token_input_encoding on the gateway, to the encoding the ids are of"
)
MAX_INPUTS: Final = 2048  # OpenAI's limits, like the next
MAX_TOKEN_IDS: Final = 300_000
# Bodies over this many bytes are looked at before they are validated: pydantic takes about 5 us for each of the
# unknown fields or list items of a hostile one, which would stop the event loop for seconds.
LARGE_BODY_BYTES: Final = 16_384
MAX_FIELDS: Final = 64
# Bodies over this many bytes are looked at before they are parsed: 16 MiB of `[],` cost orjson 2.3 s, in which no other
# Python runs, and 380 MiB. What is within these limits costs up to 60 ms and four times its length, that of text
# alone; strings are counted to their last quote, values by the commas and brackets between strings.
COUNTED_BODY_BYTES: Final = 65_536
MAX_VALUES: Final = 400_000
MAX_STRINGS: Final = 16_384


class TokenIds(list[list[int]]):
    """Input given as token ids, one list a text."""


def parse_inputs(value: Any) -> list[str] | TokenIds | str:
    """A string, a list of strings, a list of token ids, or a list of lists of token ids."""
    if isinstance(value, str):
        return _not_empty(value, "")
    if not isinstance(value, list):
        raise PydanticCustomError("input", "must be a string or a list of strings")
    if not value:
        raise PydanticCustomError("input", "must not be an empty list")
    if not _is_token(value[0]):
        _at_most(MAX_INPUTS, len(value), "inputs")
        if all(isinstance(one, str) for one in value):
            return [_not_empty(one, f" (item {position})") for position, one in enumerate(value)]
    return _parse_token_ids(value)


def _parse_token_ids(value: list[Any]) -> TokenIds:
    lists = [value] if _is_token(value[0]) else value
    if all(isinstance(one, list) and one for one in lists):
        _at_most(MAX_TOKEN_IDS, sum(map(len, lists)), "token ids")
        if all(all(map(_is_token, one)) for one in lists):
            return TokenIds(lists)
    raise PydanticCustomError("input", "must hold strings only, or token ids only")


def _at_most(most: int, count: int, what: str) -> None:
    if count > most:
        raise PydanticCustomError(
            "input", "holds {count} {what}; send at most {most} at once", {"count": count, "what": what, "most": most}
        )


def _not_empty(text: str, where: str) -> str:
    if not text:
        raise PydanticCustomError("input", "must not be an empty string{where}", {"where": where})
    return text


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _parse_truncate(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool | str):
        return value
    raise PydanticCustomError("input", "must be true, false or a word")


_INPUT_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 2048},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": 2048,
        },
    ],
    "description": "Text or texts to embed. Token ids are refused unless token_input_encoding is set.",
}
_TEXTS_SCHEMA = {"anyOf": _INPUT_SCHEMA["anyOf"][:2], "description": "Text or texts to embed."}

_TRUNCATE_SCHEMA = {"anyOf": [{"type": "boolean"}, {"type": "string"}, {"type": "null"}]}

Inputs = Annotated[Any, PlainValidator(parse_inputs), WithJsonSchema(_INPUT_SCHEMA)]
Texts = Annotated[Any, PlainValidator(parse_inputs), WithJsonSchema(_TEXTS_SCHEMA)]
Dimensions = Annotated[int, Field(ge=1, strict=True)]


class Body(BaseModel):
    """A request's body. Fields that a route does not declare are in `model_extra`, for `gateway.routes.fields`."""

    model_config = ConfigDict(extra="allow")


class VectorsBody(Body):
    """What may be said of the vectors, on every route that answers them."""

    model: str | None = Field(
        None, description="The model's name, an alias, or either with `:query` or `:document`; left out: the one served"
    )
    dimensions: Dimensions | None = Field(None, description="Leading dimensions to keep; re-normalised")
    encoding_format: Literal["float", "base64"] | None = None
    output_dtype: str | None = Field(None, description="float, int8, uint8, binary or ubinary")
    truncate: Annotated[bool | str | None, PlainValidator(_parse_truncate), WithJsonSchema(_TRUNCATE_SCHEMA)] = Field(
        None, description="Cut texts at the model's limit (true, END) or refuse them (false, NONE)"
    )
    prompt_name: str | None = Field(None, description="One of the checkpoint's prompts")
    input_type: str | None = Field(None, description="query, document or a prompt's name: which prompt to use")


class EmbeddingsBody(VectorsBody):
    """Body of `POST /v1/embeddings`."""

    input: Inputs
    user: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(None, description="OpenAI's; changes nothing")


class EmbedInputsBody(VectorsBody):
    """Body of `POST /embed`, first shape: answered by a bare array of vectors."""

    inputs: Texts


class EmbedTextsBody(VectorsBody):
    """Body of `POST /embed`, second shape: answered by `{"embeddings", "model", "latency_ms"}`."""

    texts: Texts


class Usage(BaseModel):
    """Tokens after the prompt and truncation."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | list[int] | str


class EmbeddingsReply(BaseModel):
    """Reply of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class TextsReply(BaseModel):
    """Reply of `POST /embed` to `texts`."""

    embeddings: list[list[float] | list[int] | str]
    model: str
    latency_ms: float


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error of every route."""

    error: ErrorDetail


BodyT = TypeVar("BodyT", bound=BaseModel)


def parse(body: bytes, shape: type[BodyT], refusal: type[BadRequest] = BadRequest) -> BodyT:
    """A body of this shape, also one with a byte order mark or lone surrogates.

    Raises `refusal` naming the first field that is wrong.
    """
    if len(body) > LARGE_BODY_BYTES:
        return validated(_load_large(body, refusal), shape, refusal)
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
            raise _refusal_of(error, refusal) from None
    return validated(_load(body), shape, refusal)


def parse_embed(body: bytes) -> EmbedInputsBody | EmbedTextsBody:
    """A body of either of `/embed`'s shapes; anything doubtful is the first, and is refused as such."""
    if len(body) <= LARGE_BODY_BYTES:
        if is_texts_shape(body):
            return parse(body, EmbedTextsBody, Unprocessable)
        return parse(body, EmbedInputsBody, Unprocessable)
    entries = _load_large(body, Unprocessable)
    if _has_texts(entries):
        return validated(entries, EmbedTextsBody, Unprocessable)
    return validated(entries, EmbedInputsBody, Unprocessable)


def _load_large(body: bytes, refusal: type[BadRequest]) -> object:
    if len(body) > COUNTED_BODY_BYTES and _holds_too_much(body):
        raise refusal(f"the body's JSON holds too many values: send at most {MAX_INPUTS} inputs at once")
    entries = _load(body)
    if isinstance(entries, dict) and len(entries) > MAX_FIELDS:
        raise refusal(f"the body has {len(entries)} fields, most of them unknown")
    return entries


def _load(body: bytes) -> object:
    """The JSON of a body as clients really send it. Raises BadRequest."""
    try:
        return json_text.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except ValueError as error:  # another encoding, or too many surrogates to mend
        raise BadRequest(f"the body's JSON cannot be read: {error}") from None


def validated(entries: object, shape: type[BodyT], refusal: type[BadRequest] = BadRequest) -> BodyT:
    """What was parsed already, in this shape. Raises `refusal` naming the first field that is wrong."""
    try:
        return shape.model_validate(entries)
    except ValidationError as error:
        raise _refusal_of(error, refusal) from None


def _holds_too_much(body: bytes) -> bool:
    """Whether a JSON body has more values, or more strings, than any that is legal; said without parsing it."""
    if _count(body, b",[{") <= MAX_VALUES and body.count(b'"') <= MAX_STRINGS:
        return False
    # Without the escapes all quotes that are left delimit strings, and every other part is not within one.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 2 * MAX_STRINGS:
        return True
    return sum(_count(part, b",[{") for part in plain.split(b'"')[::2]) > MAX_VALUES


def _count(part: bytes, signs: bytes) -> int:
    return sum(part.count(sign) for sign in signs)


def _refusal_of(error: ValidationError, refusal: type[BadRequest]) -> GatewayError:
    fault = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in fault["loc"])[:200] or None  # an unknown field's name is the client's
    match fault["type"]:
        case "json_invalid":
            return BadRequest(f"the body is not valid JSON: {fault['msg'].removeprefix('Invalid JSON: ')}")
        case "missing":
            return refusal(f"you must provide `{param}`", param=param)
        case "model_type" | "model_attributes_type":
            return refusal("the body must be a JSON object")
        case "input":
            return refusal(f"`{param}` {fault['msg']}", param=param)
    return refusal(f"`{param}`: {fault['msg']}", param=param)


def is_texts_shape(body: bytes) -> bool:
    """Whether an `/embed` body is of the second shape. Anything doubtful is not, and is refused as the first."""
    try:
        return _has_texts(json_text.loads(body))
    except ValueError:
        return False


def _has_texts(entries: object) -> bool:
    return isinstance(entries, dict) and "texts" in entries and "inputs" not in entries


def shorten(vectors: Sequence[bytes], dimensions: int | None, *, layer_norm: bool = False) -> list[bytes]:
    """The leading `dimensions` of each float32 vector, brought back to unit length; all of it when None.

    layer_norm: the model was trained with one before the cut, see `common.matryoshka`.
    """
    if dimensions is None:
        return list(vectors)
    whole = (np.frombuffer(vector, dtype="<f4") for vector in vectors)
    return [shortened(one, dimensions, layer_norm=layer_norm).astype("<f4").tobytes() for one in whole]


def embeddings_reply(vectors: Sequence[bytes], model: str, tokens: int) -> bytes:
    """The body of `POST /v1/embeddings`, an EmbeddingsReply; `vectors` are pieces of JSON, here and below."""
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, text) for index, text in enumerate(vectors)
    )
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        data,
        orjson.dumps(model),
        tokens,
        tokens,
    )


def array_reply(vectors: Sequence[bytes]) -> bytes:
    """A bare array of vectors."""
    return b"[" + b",".join(vectors) + b"]"


def texts_reply(vectors: Sequence[bytes], model: str, latency_ms: float) -> bytes:
    """The body of `POST /embed` to `texts`: a TextsReply."""
    rest = orjson.dumps({"model": model, "latency_ms": round(latency_ms, 3)})
    return b'{"embeddings":' + array_reply(vectors) + b"," + rest[1:]


def float_array(vector: bytes) -> bytes:
    """One vector as a JSON array; every float32 comes back exactly when it is parsed."""
    return orjson.dumps(np.frombuffer(vector, dtype="<f4"), option=orjson.OPT_SERIALIZE_NUMPY)
