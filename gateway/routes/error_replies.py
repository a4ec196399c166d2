"""Errors of the framework's routes in the shape of all others: what was asked for, and what there is instead."""

from collections.abc import Iterable
from typing import Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gateway.errors import BY_STATUS, BadRequest, GatewayError, InternalError, Unprocessable
from gateway.paths import REFUSED, WITH_MODEL, nearest
from gateway.routes import ollama

FRAMEWORK: Final = ("/docs/oauth2-redirect",)


class KnownRoutes:
    """The application's routes, to say what a path or a method could have been."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if hasattr(route, "path")]
        paths = {str(path) for route in self._routes if (path := getattr(route, "path", None))}
        self._suggested = sorted((paths | {name for name, *_ in WITH_MODEL}) - {*REFUSED, *FRAMEWORK, "/"})

    def nearest(self, path: str) -> str | None:
        """The route that a path looks most like; of the operator's routes none, unless it is one of theirs."""
        known = [one for one in self._suggested if path.startswith("/admin") or not one.startswith("/admin")]
        return nearest(path, known)

    def methods(self, request: Request) -> list[str]:
        """The methods that a path has."""
        found: set[str] = set()
        for route in self._routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
        return sorted(found | ({"HEAD"} if "GET" in found else set()))


def _envelope(request: Request, error: GatewayError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    is_ollama = request.url.path.startswith(ollama.PREFIX)
    body = ollama.error_body(error) if is_ollama else error.body()
    return Response(body, error.status, headers, media_type="application/json")


async def on_gateway_error(request: Request, error: Exception) -> Response:
    """One of ours."""
    assert isinstance(error, GatewayError)
    return _envelope(request, error)


async def on_http_exception(known: KnownRoutes, request: Request, error: Exception) -> Response:
    """The framework's: no such route or method, mostly."""
    assert isinstance(error, HTTPException)
    shape = BY_STATUS.get(error.status_code, InternalError)
    path, headers, hint = request.url.path[:200], dict(error.headers or {}), "See /docs for what there is"
    if error.status_code == 404 and (near := known.nearest(request.url.path)) is not None:
        hint = f"Did you mean {near}? {hint}"
    elif error.status_code == 405 and (methods := known.methods(request)):
        headers["allow"] = ", ".join(methods)
        hint = f"It takes {headers['allow']}. {hint}"
        headers.pop("Allow", None)
    response = _envelope(request, shape(f"{request.method} {path}: {error.detail}. {hint}"))
    response.status_code = error.status_code
    response.headers.update(headers)
    return response


async def on_invalid_body(request: Request, error: Exception) -> Response:
    """An operator's body or query that is wrong."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        message = f"the body is not JSON: {fault.get('ctx', {}).get('error', 'see RFC 8259')}"
        return _envelope(request, BadRequest(message))
    param = ".".join(str(part) for part in fault["loc"][1:]) or None
    return _envelope(request, Unprocessable(f"`{param or 'body'}`: {fault['msg']}", param=param))


async def on_fault(request: Request, error: Exception) -> Response:
    """A fault of ours."""
    return _envelope(request, InternalError("an internal fault; the gateway's log has it under this x-request-id"))
