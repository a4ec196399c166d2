"""Request bodies: JSON, perhaps compressed, held by the request's place as they arrive and as they expand."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Message, Receive

from common import asgi
from common.asgi import JSON, NO_SCOPE, BodyLimits, media_type, read_body
from common.content_coding import STEP_BYTES, STEP_PARTS, BrokenBody, UnknownCoding, coding_of, expansion_steps
from gateway.admission import UNCOUNTED_BYTES, Place
from gateway.errors import BadRequest, BodyTimeout, BodyTooLarge, UnsupportedMedia
from gateway.work_pool import WorkPool

UNCOUNTED_DIGITS: Final = len(str(UNCOUNTED_BYTES))  # a length of fewer digits is less
MAX_DIGITS: Final = 20  # of a length; int() refuses thousands


async def body_of(
    headers: dict[bytes, bytes],
    receive: Receive,
    limits: BodyLimits,
    place: Place | None = None,
    scope: Mapping[str, Any] = NO_SCOPE,
) -> bytes:
    """A JSON body as it was sent; `place` holds its length, where that is declared before it is read.

    `scope` is looked at for what has arrived.

    Raises UnsupportedMedia, BodyTooLarge, BodyTimeout, Overloaded, ClientGone.
    """
    if media_type(headers, JSON) != JSON:
        raise UnsupportedMedia("send JSON with `Content-Type: application/json`")
    declared = headers.get(b"content-length", b"")
    if place is not None and not (len(declared) < UNCOUNTED_DIGITS and declared.isdigit()):
        receive = _held(declared, receive, limits, place)
    try:
        return await read_body(headers, receive, limits, scope)
    except asgi.BodyTooLarge:
        raise _too_large(limits.max_bytes) from None
    except asgi.BodyTimeout:
        raise BodyTimeout(f"the body did not arrive within {limits.timeout_s:g} s") from None


async def expanded_body(
    body: bytes, content_encoding: bytes, max_bytes: int, place: Place, pool: WorkPool, tenant: str
) -> bytes:
    """A body without its content coding; `place` holds what it expands to as it grows.

    The first step is done here, and all there is of a small body; the others on the pool, in the tenant's turn.
    Raises UnsupportedMedia, BodyTooLarge, BadRequest, Overloaded.
    """
    try:
        coding = coding_of(content_encoding)
        if coding is None:
            return body
        steps = expansion_steps(body, coding, max_bytes)
        parts = next(steps)
        size = sum(map(len, parts))
        place.hold(size)
        is_small = max(len(body), size) < STEP_BYTES and len(parts) < STEP_PARTS
        while (
            more := next(steps, None) if is_small else await pool.run(tenant, lambda: next(steps, None))
        ) is not None:
            place.hold(sum(map(len, more)))
            parts += more
    except UnknownCoding as error:
        raise UnsupportedMedia(str(error), accept_encoding=error.accept) from None
    except BrokenBody as error:
        raise BadRequest(str(error)) from None
    except asgi.BodyTooLarge:
        raise _too_large(max_bytes, " when it is expanded") from None
    return b"".join(parts)


def _held(declared: bytes, receive: Receive, limits: BodyLimits, place: Place) -> Receive:
    """`receive`, with a place that holds the body: what is declared at once, otherwise each part as it comes.

    Raises Overloaded, as may the function returned. A body that is declared too long is left to `read_body`.
    """
    if len(declared) < MAX_DIGITS and declared.isdigit():
        if UNCOUNTED_BYTES < int(declared) <= limits.max_bytes:
            place.hold(int(declared))
        return receive

    async def receive_and_hold() -> Message:
        message = await receive()
        place.hold(len(message.get("body", b"")))
        return message

    return receive_and_hold


def _too_large(max_bytes: int, when: str = "") -> BodyTooLarge:
    return BodyTooLarge(f"the body is over {max_bytes // 1024 // 1024} MiB{when}: send less at once")
