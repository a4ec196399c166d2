"""What a page in a browser may not do: use a gateway that is open to its own machine.

A page of any site can send requests to 127.0.0.1. Two rules keep it out, on top of the browser's own (a page cannot
read an answer from another origin unless `cors_origins` names its own):

- A request with a body and an `Origin` is JSON by its `Content-Type`. The browser then asks first, by a preflight that
  only `cors_origins` answers; without a content type it would send the request unasked.
- Where no API key is needed and the gateway listens on loopback alone, `Host` is a name of this machine. A site whose
  name is made to resolve to 127.0.0.1 (DNS rebinding) is of one origin with its pages, but its name stays in `Host`.
"""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from common.asgi import JSON, Reply, media_type, send_reply
from gateway.errors import Forbidden, GatewayError, UnsupportedMedia
from gateway.settings import GatewaySettings

OWN_NAMES: Final = ("localhost", "127.0.0.1", "[::1]", "host.docker.internal")  # the last: this machine, to containers
WITHOUT_BODY: Final = ("GET", "HEAD", "OPTIONS")


class BrowserGuard:
    """Middleware that refuses what is said above: 415 and 403."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._hosts: frozenset[bytes] | None = None  # None: any
        if not settings.is_exposed and not settings.api_keys:
            names = (*OWN_NAMES, settings.gateway_host, *settings.allowed_hosts)
            self._hosts = frozenset(name.lower().encode() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except GatewayError as error:
                await send_reply(Reply(error.body(), error.headers(), error.status), send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        has_origin = False
        for name, value in scope["headers"]:
            if name == b"host" and self._hosts is not None and (host := _without_port(value)) not in self._hosts:
                if not host.endswith(b".localhost"):
                    raise Forbidden(
                        "this gateway answers its own machine alone, and the `Host` of this request is another name: "
                        "use localhost, or name the host in `allowed_hosts`"
                    )
            elif name == b"origin":
                has_origin = True
        if has_origin and scope["method"] not in WITHOUT_BODY and media_type(dict(scope["headers"])) != JSON:
            raise UnsupportedMedia("from a browser, send JSON with `Content-Type: application/json`")


def _without_port(host: bytes) -> bytes:
    """The name of a Host field in lower case; an IPv6 address keeps its brackets."""
    end = host.find(b":", host.find(b"]") + 1)
    return (host if end < 0 else host[:end]).lower()
