"""Everything the engine can refuse or fail with; engine.replies maps each to an HTTP status.

EngineError
+-- RequestRefused             the caller must change something; sending the same again will not help
|   +-- InvalidMessage         not a message of the protocol, or JSON of another shape
|   +-- TokenOutOfVocabulary   a token id the model has no embedding for
|   +-- TextTooLong            a text above the model's maximum length
|   +-- BodyTooLarge           more bytes than any legal request has
|   +-- BodyTimeout            the body did not arrive in time
|   +-- UnsupportedMediaType   a content type other than the two of the protocol
|   +-- FingerprintMismatch    the caller expects vectors of another model
+-- EngineBusy                 the same request may succeed later
|   +-- QueueFull              admission refused; `retry_after_s`: when to come back
|   +-- Draining               the process is shutting down
+-- DeadlineExceeded           the caller's time was over before the vectors were there
+-- EngineFailed               the run raised, hung or gave something that is no vector
"""

from typing import ClassVar


class EngineError(Exception):
    """Base of all of them; `kind` is the `type` that goes over the wire."""

    kind: ClassVar[str] = "engine_error"


class RequestRefused(EngineError):
    """The request itself is at fault."""

    kind = "invalid_request"


class InvalidMessage(RequestRefused):
    """The body is not a message of the protocol."""

    kind = "invalid_message"


class TokenOutOfVocabulary(RequestRefused):
    """A token id is not below the model's vocabulary size."""

    kind = "token_out_of_vocabulary"


class TextTooLong(RequestRefused):
    """A text has more tokens than the model takes."""

    kind = "text_too_long"


class BodyTooLarge(RequestRefused):
    """The body has more bytes than the limit."""

    kind = "body_too_large"


class BodyTimeout(RequestRefused):
    """The body did not arrive in time."""

    kind = "body_timeout"


class UnsupportedMediaType(RequestRefused):
    """The content type is neither the binary one nor JSON."""

    kind = "unsupported_media_type"


class FingerprintMismatch(RequestRefused):
    """The caller expects vectors this engine does not compute."""

    kind = "fingerprint_mismatch"


class EngineBusy(EngineError):
    """Nothing is wrong with the request; another time or another engine will take it."""

    kind = "busy"


class QueueFull(EngineBusy):
    """Admitting the request would take the queue over its bound of tokens."""

    kind = "queue_full"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(EngineBusy):
    """The engine finishes what it has and takes nothing new."""

    kind = "draining"


class DeadlineExceeded(EngineError):
    """The request's deadline passed while it waited or ran."""

    kind = "deadline_exceeded"


class EngineFailed(EngineError):
    """The graph raised, hung, or returned something that is not a finite vector for every text."""

    kind = "engine_failed"
