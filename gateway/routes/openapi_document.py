"""Adds the embedding routes, which are plain ASGI, to the OpenAPI document that FastAPI makes of the others."""

from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.routes import ollama, tei
from gateway.routes.schemas import (
    EmbeddingsBody,
    EmbeddingsReply,
    EmbedInputsBody,
    EmbedTextsBody,
    ErrorReply,
    TextsReply,
)

REF_TEMPLATE: Final = "#/components/schemas/{model}"
ERRORS: Final = {
    "400": "A field is wrong; `param` names it",
    "401": "No or unknown API key or admin token",
    "403": "The admin interface is closed: no admin_token is set",
    "404": "Unknown model, route or namespace",
    "405": "Wrong method",
    "408": "The body came too slowly",
    "409": "For the operator: another change came first",
    "413": "The body is too large",
    "415": "Not JSON, or an unknown content coding",
    "422": "Wrong shape",
    "429": "A limit is reached; see Retry-After",
    "500": "Internal fault",
    "503": "The engine, or for the operator Redis, is away or too slow; see Retry-After",
}
CACHE_HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": "x-cache-control",
        "in": "header",
        "schema": {"type": "string", "enum": ["normal", "exact-only", "no-cache", "no-store"]},
        "description": "no-cache: compute, then keep; no-store: compute, keep nothing; exact-only: no semantic hits",
    },
    {
        "name": "x-min-fidelity",
        "in": "header",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
        "description": "Least cosine similarity to the recomputed vector; L0 and the exact tier always have 1",
    },
]


def _ref(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF_TEMPLATE.format(model=shape.__name__)}


def _any(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


class OllamaError(BaseModel):
    """Every error of the routes under /api/."""

    error: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A POST route in the document. `is_cached`: whether it goes through the cache."""

    summary: str
    tag: str
    bodies: tuple[type[BaseModel], ...]
    replies: tuple[dict[str, Any], ...]
    is_cached: bool = True


VECTOR: Final = {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
VECTORS: Final = {"type": "array", "items": VECTOR}
OBJECT: Final = {"type": "object"}
OPENAI: Final = ((EmbeddingsBody,), (_ref(EmbeddingsReply),))
EITHER: Final = ((EmbedInputsBody, EmbedTextsBody), (VECTORS, _ref(TextsReply)))
EMBED: Final = Operation("Embed texts (text-embeddings-inference, or plain)", "Embed", *EITHER)
OPERATIONS: Final[dict[str, Operation]] = {
    "/v1/embeddings": Operation("Embed texts (OpenAI)", "OpenAI", *OPENAI),
    "/embeddings": Operation("The same without /v1", "OpenAI", *OPENAI),
    "/openai/v1/embeddings": Operation("The same as Azure has it", "OpenAI", *OPENAI),
    "/openai/deployments/{model}/embeddings": Operation("The same as Azure had it", "OpenAI", *OPENAI),
    "/embed": EMBED,
    "/": Operation("The same as /embed (Hugging Face's InferenceClient)", "Embed", *EITHER),
    "/pipeline/feature-extraction": Operation("The same as /embed", "Embed", *EITHER),
    "/pipeline/feature-extraction/{model}": Operation("The same as /embed", "Embed", *EITHER),
    "/models/{model}/pipeline/feature-extraction": Operation("The same as /embed", "Embed", *EITHER),
    "/models/{model}": Operation("The same as /embed", "Embed", *EITHER),
    "/tokenize": Operation(
        "Tokens of texts", "Embed", (tei.TokenizeBody,), ({"type": "array", "items": {"type": "array"}},), False
    ),
    "/decode": Operation(
        "Texts of token ids", "Embed", (tei.DecodeBody,), ({"type": "array", "items": {"type": "string"}},), False
    ),
    "/api/embed": Operation("Embed texts (Ollama)", "Ollama", (ollama.OllamaEmbedBody,), (OBJECT,)),
    "/api/embeddings": Operation("Embed one text (Ollama, older)", "Ollama", (ollama.OllamaPromptBody,), (OBJECT,)),
    "/api/show": Operation("The model (Ollama)", "Ollama", (ollama.ShowBody,), (OBJECT,), False),
}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` include the embedding routes."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    shapes: list[type[BaseModel]] = [EmbeddingsReply, TextsReply, ErrorReply, OllamaError]
    shapes += dict.fromkeys(shape for operation in OPERATIONS.values() for shape in operation.bodies)
    _, definitions = models_json_schema([(shape, "validation") for shape in shapes], ref_template=REF_TEMPLATE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= _error_responses(path)
    for path, operation in OPERATIONS.items():
        document["paths"].setdefault(path, {})["post"] = _operation(path, operation)
    return document


def _operation(path: str, operation: Operation) -> dict[str, Any]:
    in_path = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return {
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": (CACHE_HEADERS if operation.is_cached else []) + (in_path if "{model}" in path else []),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _any([_ref(shape) for shape in operation.bodies])}},
        },
        "responses": {
            "200": {
                "description": "What was asked for",
                "content": {"application/json": {"schema": _any(list(operation.replies))}},
            },
            **_error_responses(path),
        },
    }


def _error_responses(path: str) -> dict[str, Any]:
    shape = OllamaError if path.startswith(ollama.PREFIX) else ErrorReply
    content = {"application/json": {"schema": _ref(shape)}}
    return {status: {"description": text, "content": content} for status, text in ERRORS.items()}
