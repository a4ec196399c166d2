"""Hands each request to its route: those of clients straight away, and everything else to the application behind.

A route's own path costs one look-up. Other spellings and prefixes of it (`gateway.paths`) are looked at only when that
finds nothing; HEAD is answered as GET, whose body the server leaves out.
"""

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.paths import MAX_PATH_CHARS, canonical, target


class Router:
    """`routes`: POST paths to apps; `with_model`: for paths that hold a model, from the model to an app."""

    def __init__(
        self, app: ASGIApp, routes: Mapping[str, ASGIApp], with_model: Mapping[str, Callable[[str], ASGIApp]]
    ) -> None:
        self._app = app
        self._routes = dict(routes)
        self._with_model = dict(with_model)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "POST":
            route = self._routes.get(scope["path"]) or self._other(scope["path"])
            if route is not None:
                await route(scope, receive, send)
                return
        await self._app(_plain(scope), receive, send)

    def _other(self, path: str) -> ASGIApp | None:
        if len(path) > MAX_PATH_CHARS:
            return None
        if (route := self._routes.get(canonical(path))) is not None:
            return route
        found = target(path)
        return None if found is None else self._with_model[found[0]](found[1])


def _plain(scope: Scope) -> Scope:
    """The same request by the path that the application knows, and with GET for HEAD."""
    path = scope["path"]
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    plain = canonical(path) if len(path) <= MAX_PATH_CHARS else path[:MAX_PATH_CHARS]  # which no route has
    if plain == scope["path"] and method == scope["method"]:
        return scope
    return {**scope, "path": plain, "method": method}
