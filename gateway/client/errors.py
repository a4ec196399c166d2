"""Every exception a caller of the client can meet.

    ClientError
    ├── TransportError          no complete answer arrived
    │   ├── ConnectFailed       no connection: refused, unresolved, TLS, not a URL
    │   ├── ConnectionLost      the connection broke before the answer was complete
    │   └── TimedOut            no answer in time
    ├── Refused                 the gateway answered with an error (status, type, param, code, request_id)
    │   ├── RequestRefused      400, 404, 413, 422, any other 3xx or 4xx: this request will not pass as it is
    │   ├── Unauthorized        401, 403
    │   ├── RateLimited         429: slow down; retry_after_s: for how long
    │   ├── Unavailable         502, 503, 504: no answer possible right now
    │   └── GatewayFault        500 and any other 5xx
    ├── InvalidReply            an answer that breaks the contract: not HTTP, not JSON, wrong count
    ├── FingerprintMismatch     another model answers, or would: its vectors must not be mixed in
    └── CircuitOpen             not sent: this URL failed too often and is left alone for a while

`TransportError`, `RateLimited` and `Unavailable` are retried before they are raised; nothing else is.
`transport.translated` is the one place where aiohttp's exceptions become these.
"""

from common.credentials import shown_url


class ClientError(Exception):
    """Base of everything this package raises on its own account."""

    retry_after_s: float | None = None  # what the other side gave, if it did


class TransportError(ClientError):
    """No complete answer arrived, so nothing is known of what the gateway did."""


class ConnectFailed(TransportError):
    """No connection to the URL could be made."""


class ConnectionLost(TransportError):
    """The connection broke before the answer was complete."""


class TimedOut(TransportError):
    """The answer did not arrive within the time allowed."""


class Refused(ClientError):
    """The gateway answered with an error; the fields are those of its envelope, None where it gave none."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        about = f" (request {request_id})" if request_id else ""
        super().__init__(f"{status}: {message}{about}")
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class RequestRefused(Refused):
    """This request will not pass as it is; sending it again changes nothing."""


class Unauthorized(Refused):
    """The API key is missing, wrong, or not allowed this."""


class RateLimited(Refused):
    """The gateway is at its limit, or this key is at its own; `retry_after_s`: how long to wait."""


class Unavailable(Refused):
    """The gateway, or what is behind it, cannot answer right now."""


class GatewayFault(Refused):
    """The gateway failed in a way it did not plan for."""


class InvalidReply(ClientError):
    """An answer arrived that breaks the contract, so none of it is used."""


class FingerprintMismatch(ClientError):
    """Vectors would come from another model than those this client has returned so far.

    Vectors of two models, or of one model computed in two ways, lie in different spaces: cosine similarities
    between them mean nothing, and an index that holds both is broken without looking so.
    """

    def __init__(self, url: str, expected: str, found: str | None) -> None:
        names = f"fingerprint {found}" if found else "no fingerprint"
        super().__init__(
            f"{shown_url(url)} declares {names}, but this client's vectors have fingerprint {expected}. Vectors of two "
            "models lie in different spaces and must never mix in one index, so none of this answer is used. Point the "
            "URL at the same model bundle, or start a new client and embed everything again"
        )
        self.url = url
        self.expected = expected
        self.found = found


class CircuitOpen(ClientError):
    """Not sent: the URL failed too often in a row; `retry_after_s`: when it may be tried again."""

    def __init__(self, name: str, last_failure: str, retry_after_s: float) -> None:
        super().__init__(f"{name} failed repeatedly and is left alone for {retry_after_s:.1f} s; last: {last_failure}")
        self.last_failure = last_failure
        self.retry_after_s = retry_after_s
