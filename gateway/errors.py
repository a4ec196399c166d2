"""What can go wrong with a request, and the one table from that to status and envelope.

    GatewayError                 base: a status, `type`, `code`, and the seconds after which to retry
    ├── BadRequest           400 a field is wrong; `param` names it
    │   └── Unprocessable    422 the shape of a non-OpenAI route's body is wrong
    ├── Unauthorized         401 no or unknown API key
    ├── Forbidden            403 the admin interface is closed
    ├── NotFound             404 no such route, namespace or change
    │   └── ModelNotFound    404 a model that is not served here
    ├── MethodNotAllowed     405
    ├── Conflict             409 another change came first
    ├── BodyTimeout          408 the body came too slowly
    ├── BodyTooLarge         413
    ├── UnsupportedMedia     415 not JSON, or an unknown content coding
    ├── RateLimited          429 this key's own limit
    │   └── QuotaExceeded    429 this key's budget of the day or month; not worth a retry before it renews
    ├── Overloaded           429 gateway or engine full; nothing of the request was started
    ├── EngineAway           503 the engine cannot be reached; cached items are still served
    ├── EngineFailed         503 the engine's answer cannot be used
    ├── DeadlineExceeded     503 no answer within the request's deadline
    ├── PurgeUnconfirmed     503 Redis did not confirm a purge
    ├── ChangeUnconfirmed    503 Redis did not confirm values changed while running
    ├── StateAway            503 what was learned cannot be read from Redis
    └── InternalError        500 a fault of ours; the log has the trace, the reply has not

    ModelChanged                 not an answer: the engine now serves another fingerprint; the request is done again

Other packages' errors are translated where they are called: engines for the engine's, routes for the cache's,
http for those of bodies and replies.
"""

import math
from typing import Final

import orjson


class GatewayError(Exception):
    """Base of every error a client may see. `message` has the remedy; it never holds a trace or a text."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The OpenAI envelope."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers beyond the content type; Retry-After in whole seconds, at least one."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode())]


class BadRequest(GatewayError):
    """A field is wrong."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class Unprocessable(BadRequest):
    """The body's shape is wrong, on a route that is not OpenAI's."""

    status = 422


class Unauthorized(GatewayError):
    """No key, or one that is not known."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names the scheme, as HTTP requires."""
        return [(b"www-authenticate", b"Bearer")]


class Forbidden(GatewayError):
    """The admin interface is closed."""

    status, type, code = 403, "invalid_request_error", "forbidden"


class NotFound(GatewayError):
    """No such route, namespace or change."""

    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    """A model this gateway does not serve."""

    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The route exists, not with this method."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(GatewayError):
    """What was to be changed is no longer as it was seen."""

    status, type, code = 409, "invalid_request_error", "changed_meanwhile"


class BodyTimeout(GatewayError):
    """The body did not arrive in time."""

    status, type, code = 408, "invalid_request_error", "body_timeout"


class BodyTooLarge(GatewayError):
    """The body is over the limit."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class UnsupportedMedia(GatewayError):
    """Not JSON, or a content coding that is not known here."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"

    def __init__(self, message: str, *, accept_encoding: bytes | None = None) -> None:
        super().__init__(message)
        self._accept_encoding = accept_encoding

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The content codings there are, where it was another one."""
        return [(b"accept-encoding", self._accept_encoding)] if self._accept_encoding else []


class RateLimited(GatewayError):
    """The key's own limit of requests or tokens a minute."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class QuotaExceeded(RateLimited):
    """The key's budget of tokens a day or a month. OpenAI's type and code for it, which its clients tell apart."""

    type, code = "insufficient_quota", "insufficient_quota"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """When it renews, and for clients that would retry any 429 (OpenAI's and those made of it), not to."""
        return [*super().headers(), (b"x-should-retry", b"false")]


class Overloaded(GatewayError):
    """The gateway or the engine is full."""

    status, type, code = 429, "overloaded_error", "overloaded"


class EngineAway(GatewayError):
    """The engine cannot be reached."""

    status, type, code = 503, "server_error", "engine_unavailable"


class EngineFailed(GatewayError):
    """The engine's answer cannot be used."""

    status, type, code = 503, "server_error", "engine_failed"


class DeadlineExceeded(GatewayError):
    """No answer in time."""

    status, type, code = 503, "server_error", "deadline_exceeded"


class PurgeUnconfirmed(GatewayError):
    """Redis did not confirm the purge."""

    status, type, code = 503, "server_error", "purge_unconfirmed"


class ChangeUnconfirmed(GatewayError):
    """Redis did not confirm the change."""

    status, type, code = 503, "server_error", "change_unconfirmed"


class StateAway(GatewayError):
    """What was learned cannot be read from Redis."""

    status, type, code = 503, "server_error", "state_unavailable"


class InternalError(GatewayError):
    """A fault of ours."""

    status, type, code = 500, "server_error", "internal_error"


class ModelChanged(Exception):
    """The engine answers with another fingerprint than the one sent."""


BY_STATUS: Final[dict[int, type[GatewayError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    413: BodyTooLarge,
    415: UnsupportedMedia,
    422: Unprocessable,
    429: Overloaded,
}
