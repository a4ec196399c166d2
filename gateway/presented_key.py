"""The API key of a request: in `Authorization: Bearer`, as of OpenAI's clients, in Azure's `api-key`, or `x-api-key`.

presented_key({b"api-key": b"secret"})  ->  "secret"
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.errors import Unauthorized
from gateway.tenants import bearer

KEY_HEADERS: Final = (b"api-key", b"x-api-key")  # beside Authorization; none may come twice in one request


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The one key that these headers hold; None when they hold none.

    An Authorization of another scheme is not a key. Raises Unauthorized when two headers hold different keys: what
    stands in front of the gateway may have looked at the other one.
    """
    found = bearer(headers.get(b"authorization"))
    where = "Authorization"
    for name in KEY_HEADERS:
        value = headers.get(name)
        key = value.strip().decode("latin-1") if value is not None else ""
        if not key:
            continue
        if found is not None and not hmac.compare_digest(found.encode(), key.encode()):
            raise Unauthorized(f"{where} and {name.decode()} hold different API keys; send one of them")
        found, where = key, name.decode()
    return found


def one_key(fields: Iterable[tuple[bytes, bytes]], headers: Mapping[bytes, bytes]) -> str | None:
    """The same of a request's header fields, which may come twice; `headers` has the last of each name.

    Authorization comes once: the server refuses two. Raises Unauthorized where another comes twice, and differs.
    """
    if b"api-key" not in headers and b"x-api-key" not in headers:
        return bearer(headers.get(b"authorization"))
    for name, value in fields:
        if name in KEY_HEADERS and headers[name] != value:
            raise Unauthorized(f"{name.decode()} comes twice, with different API keys; send one of them")
    return presented_key(headers)
