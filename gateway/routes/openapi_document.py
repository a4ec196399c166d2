"""Adds the embedding routes, which are plain ASGI, to the OpenAPI document that FastAPI makes of the others."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

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
    "413": "The body is too large",
    "415": "Not JSON",
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


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` include the embedding routes."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    shapes: list[type[BaseModel]] = [
        EmbeddingsBody,
        EmbeddingsReply,
        EmbedInputsBody,
        EmbedTextsBody,
        TextsReply,
        ErrorReply,
    ]
    _, definitions = models_json_schema([(shape, "validation") for shape in shapes], ref_template=REF_TEMPLATE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"] |= _error_responses()
    vectors = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    document["paths"]["/v1/embeddings"] = {
        "post": _operation("Embed texts (OpenAI)", "OpenAI", [_ref(EmbeddingsBody)], [_ref(EmbeddingsReply)])
    }
    document["paths"]["/embed"] = {
        "post": _operation(
            "Embed texts (text-embeddings-inference, or plain)",
            "Embed",
            [_ref(EmbedInputsBody), _ref(EmbedTextsBody)],
            [vectors, _ref(TextsReply)],
        )
    }
    return document


def _operation(summary: str, tag: str, bodies: list[dict[str, Any]], replies: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "summary": summary,
        "tags": [tag],
        "parameters": CACHE_HEADERS,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _any(bodies)}}},
        "responses": {
            "200": {"description": "Vectors", "content": {"application/json": {"schema": _any(replies)}}},
            **_error_responses(),
        },
    }


def _error_responses() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(ErrorReply)}}
    return {status: {"description": text, "content": content} for status, text in ERRORS.items()}


def _ref(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF_TEMPLATE.format(model=shape.__name__)}


def _any(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
