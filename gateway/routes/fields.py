"""What a request's fields mean beside its texts, by all the names that clients have for them.

    options = options_of(body, exchange.headers, settings.strict_fields)

Frameworks send fields of every provider they know, and more with each release. So:

- a field that is null is as if it were not there;
- other names for what this gateway can do mean that (SYNONYMS);
- a field that asks for another vector than this gateway can give is refused by name (FIXED);
- one that is spelled nearly like a field of ours is refused with the right spelling, for a wrong `dimension` would
  show much later, in an index;
- every other field is ignored: it cannot change a vector as far as anyone here knows. It is counted in
  `dejavec_ignored_fields_total`, and the reply names unknown ones in `x-ignored-fields`.

With `strict_fields` what would be ignored is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from common.asgi import Headers
from gateway.errors import BadRequest
from gateway.metrics import IGNORED_FIELDS
from gateway.names import InputType
from gateway.routes.output_types import Output, decodes_base64_as_float32, wanted_output
from gateway.routes.schemas import MAX_FIELDS, Dimensions, VectorsBody, validated

IGNORED_HEADER: Final = b"x-ignored-fields"
SHOWN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_SHOWN: Final = 16

Names = str | list[str]


class Synonyms(BaseModel):
    """Other names of fields, and fields of the other routes, by type."""

    model_config = ConfigDict(extra="ignore")

    output_dimension: Dimensions | None = None
    output_dimensions: Dimensions | None = None
    truncate_dim: Dimensions | None = None
    embedding_type: Names | None = None
    embedding_types: Names | None = None
    task: str | None = None
    task_type: str | None = None
    truncation: bool | None = None


TRUNCATE: Final = {"NONE": False, "END": True, "RIGHT": True}
SIZES: Final = ("output_dimension", "output_dimensions", "truncate_dim")
TYPES: Final = ("embedding_type", "embedding_types")
TASKS: Final = ("task", "task_type")

# What asks for another vector or reply than there is, the values that do not, and why there is no other.
FIXED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "normalize": ((True,), "stored vectors have unit length"),
    "normalized": ((True,), "stored vectors have unit length"),
    "normalize_embeddings": ((True,), "stored vectors have unit length"),
    "embedding_normalize": ((True,), "stored vectors have unit length"),
    "truncation_direction": (("Right", "right"), "a text is cut at its end"),
    "late_chunking": ((False,), "each text is embedded by itself"),
    "stream": ((False,), "a reply is sent whole"),
    "return_multivector": ((False,), "a text has one vector"),
    "return_token_embeddings": ((False,), "a text has one vector"),
    "add_special_tokens": ((True,), "the model was trained with its special tokens"),
    "pooling": ((), "pooling is part of the model"),
    "pooling_type": ((), "pooling is part of the model"),
    "truncate_prompt_tokens": ((-1,), "a text is cut at the model's own limit"),
    "instruction": (("",), "put it in front of the text, or choose a prompt with prompt_name"),
    "instructions": (("",), "put it in front of the text, or choose a prompt with prompt_name"),
    "prompt": (("",), "send texts as input; choose a prompt with prompt_name"),
    "messages": (([],), "send texts as input"),
    "images": (([],), "the model reads text alone"),
    "modality": (("text",), "the model reads text alone"),
}
HARMLESS: Final = frozenset(
    {"user", "metadata", "timeout", "drop_params", "extra_body", "extra_headers", "extra_query", "store", "tags"}
    | {"service_tier", "safety_identifier", "prompt_cache_key", "priority", "request_id", "max_retries", "num_retries"}
    | {"cache", "api_base", "api_version", "custom_llm_provider", "temperature", "top_p", "n", "seed", "keep_alive"}
    | {"options", "model_id", "encoding", "best_of", "stream_options", "parallel_tool_calls"}
)
OURS: Final = (*VectorsBody.model_fields, *Synonyms.model_fields, *FIXED)


def _bare(name: str) -> str:
    """A name without what spellings differ in: case, separators, a plural."""
    return name.lower().replace("_", "").replace("-", "").rstrip("s")


MEANT: Final = {_bare(name): name for name in OURS} | {"dim": "dimensions"}


FLOAT: Final = Output()
BASE64: Final = Output(as_base64=True)


@dataclass(slots=True)
class Options:
    """What a request wants beside its texts."""

    prompt_name: str | None = None
    input_type: InputType | None = None
    dimensions: int | None = None
    truncate: bool | None = None  # None: as the settings have it
    output: Output = FLOAT
    headers: Headers | tuple[()] = ()  # of the reply


def options_of(body: VectorsBody, headers: Mapping[bytes, bytes], is_strict: bool) -> Options:
    """What the fields of a body mean; `headers` are the request's. Raises BadRequest naming a field."""
    extra = body.model_extra
    if not extra and body.input_type is None and body.output_dtype is None:
        output = BASE64 if body.encoding_format == "base64" else FLOAT
        truncate = body.truncate if body.truncate is None else _truncate(body.truncate)
        return Options(body.prompt_name, None, body.dimensions, truncate, output)
    ignored = _ignored(extra or {}, is_strict)
    more = validated(extra or {}, Synonyms)
    types: dict[str, Names | None] = {"output_dtype": body.output_dtype}
    types |= {name: getattr(more, name) for name in TYPES}
    return Options(
        body.prompt_name,
        _input_type(body, more),
        _dimensions(body, more),
        more.truncation if body.truncate is None else _truncate(body.truncate),
        wanted_output(types, body.encoding_format, decodes_base64_as_float32(headers)),
        [(IGNORED_HEADER, ", ".join(ignored).encode())] if ignored else (),
    )


def check_fields(extra: Mapping[str, object] | None, is_strict: bool) -> None:
    """The same for the fields of a route that has none of these options. Raises BadRequest."""
    if extra:
        _ignored(extra, is_strict)


def _ignored(extra: Mapping[str, object], is_strict: bool) -> list[str]:
    """The unknown fields, to show; all that are ignored are counted. Raises BadRequest for those that may not be."""
    if len(extra) > MAX_FIELDS:
        raise BadRequest(f"the body has {len(extra)} fields that are unknown")
    shown: list[str] = []
    for name, value in extra.items():
        if value is not None and (name in Synonyms.model_fields or _is_fixed(name, value)):
            continue
        if is_strict:
            raise BadRequest(f"Unrecognized request argument supplied: {name[:200]}", param=name[:200])
        is_known = name in HARMLESS or name in OURS
        if value is not None and not is_known:
            if (meant := MEANT.get(_bare(name[:64]))) is not None:
                raise BadRequest(f"there is no field `{name[:200]}`: write it as `{meant}`", param=name[:200])
            if len(shown) < MAX_SHOWN and SHOWN_NAME.fullmatch(name):
                shown.append(name)
        IGNORED_FIELDS.labels(name if is_known else "other").inc()
    return shown


def _is_fixed(name: str, value: object) -> bool:
    """Whether a field asks for what is so anyway. Raises BadRequest where it asks for what cannot be had."""
    rule = FIXED.get(name)
    if rule is None:
        return False
    if value not in rule[0]:
        shown = str(value).lower() if isinstance(value, bool) else "this"
        raise BadRequest(f"{name}: {shown} is not possible: {rule[1]}", param=name)
    return True


def _dimensions(body: VectorsBody, more: Synonyms) -> int | None:
    asked = {name: size for name in SIZES if (size := getattr(more, name)) is not None}
    if body.dimensions is not None:
        asked["dimensions"] = body.dimensions
    if len(set(asked.values())) > 1:
        raise BadRequest(f"{' and '.join(asked)} differ; send one of them", param=next(iter(asked)))
    return next(iter(asked.values()), None)


def _input_type(body: VectorsBody, more: Synonyms) -> InputType | None:
    asked = [InputType(name, value) for name in TASKS if (value := getattr(more, name)) is not None]
    if body.input_type is not None:
        asked.insert(0, InputType("input_type", body.input_type))
    if len({one.value for one in asked}) > 1:
        raise BadRequest(f"{asked[0].field} and {asked[1].field} differ; send one of them", param=asked[0].field)
    return asked[0] if asked else None


def _truncate(value: bool | str) -> bool:
    """Cohere's and NVIDIA's words, text-embeddings-inference's yes or no. Raises BadRequest."""
    if isinstance(value, bool):
        return value
    if (word := value.upper()) not in TRUNCATE:
        raise BadRequest("truncate must be true, false, NONE or END: a text is cut at its end", param="truncate")
    return TRUNCATE[word]
