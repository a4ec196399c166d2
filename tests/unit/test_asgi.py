"""Bodies, replies and disconnects on plain ASGI, without a server."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive

from common.asgi import (
    SEND_BYTES,
    WHOLE_BODY,
    BodyLimits,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Reply,
    media_type,
    read_body,
    send_reply,
)
from common.disconnects import DisconnectWatch

LIMITS = BodyLimits(max_bytes=10, timeout_s=None)
AFTER_S = 0.01


def receiving(*messages: Message) -> Receive:
    """These messages, and then nothing for ever."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def parts(*bodies: bytes) -> list[Message]:
    return [{"type": "http.request", "body": b, "more_body": b is not bodies[-1]} for b in bodies]


LEFT: Message = {"type": "http.disconnect"}


async def test_a_body_in_parts_is_joined() -> None:
    """However it arrives, it is one body."""
    assert await read_body({}, receiving(*parts(b"one", b"", b"two")), LIMITS) == b"onetwo"


@pytest.mark.parametrize(
    ("length", "messages", "error"),
    [
        (b"11", [], BodyTooLarge),
        (b"10", parts(b"sixsix", b"fives"), BodyTooLarge),
        (b"10", [*parts(b"six", b"five")[:1], LEFT], ClientGone),
    ],
)
async def test_bodies_that_are_refused(length: bytes, messages: Sequence[Message], error: type[Exception]) -> None:
    """A declared length above the limit, before anything is read; more than that on arrival; a client that left."""
    with pytest.raises(error):
        await read_body({b"content-length": length}, receiving(*messages), LIMITS)


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    """The limit is for the whole body."""
    with pytest.raises(BodyTimeout):
        await read_body({}, receiving(*parts(b"a", b"b")[:1]), BodyLimits(10, AFTER_S))


async def test_a_body_that_has_arrived_is_not_timed() -> None:
    """There is nothing to wait for."""
    assert await read_body({}, receiving(*parts(b"a", b"b")), BodyLimits(10, 0.0), {WHOLE_BODY: None}) == b"ab"


async def test_a_small_body_that_has_arrived_needs_no_message() -> None:
    """It is in the scope; the limits are the same."""
    assert await read_body({}, receiving(), LIMITS, {WHOLE_BODY: b"ab"}) == b"ab"
    with pytest.raises(BodyTooLarge):
        await read_body({}, receiving(*parts(b"abc")), BodyLimits(2, AFTER_S), {WHOLE_BODY: b"abc"})


@pytest.mark.parametrize("size", [0, 1, SEND_BYTES, SEND_BYTES + 1, 3 * SEND_BYTES])
async def test_a_reply_arrives_whole(size: int) -> None:
    """In pieces that the server may buffer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await send_reply(Reply(b"x" * size, [(b"a", b"b")], 404, b"text/plain"), send)
    start, *bodies = sent
    assert start["status"] == 404
    assert dict(start["headers"]) == {b"content-type": b"text/plain", b"content-length": b"%d" % size, b"a": b"b"}
    assert b"".join(message["body"] for message in bodies) == b"x" * size
    assert max(len(message["body"]) for message in bodies) <= SEND_BYTES
    assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]


def test_media_types_are_compared_without_case_and_parameters() -> None:
    """`Application/JSON; charset=utf-8` is JSON."""
    assert media_type({b"content-type": b"Application/JSON; charset=utf-8"}) == b"application/json"
    assert media_type({}, b"x/y") == b"x/y"


async def test_a_client_that_leaves_ends_the_block() -> None:
    """What the block awaits is cancelled, and the task goes on."""
    work = asyncio.get_running_loop().create_future()
    with pytest.raises(ClientGone), DisconnectWatch(AFTER_S).guard(receiving(LEFT)):
        await work
    assert work.cancelled()


async def test_the_deadline_ends_the_block() -> None:
    """Also while the client is still there."""
    with (
        pytest.raises(TimeoutError),
        DisconnectWatch(AFTER_S).guard(receiving(), asyncio.get_running_loop().time() + AFTER_S),
    ):
        await asyncio.Event().wait()


async def test_a_block_that_ends_early_is_not_listened_to() -> None:
    """Nothing is received for it, and the timer stops when no block is left."""
    heard: list[str] = []

    async def receive() -> Message:
        heard.append("listening")
        return LEFT

    watch = DisconnectWatch(AFTER_S)
    with watch.guard(receive):
        pass
    await asyncio.sleep(4 * AFTER_S)
    assert not heard
    with pytest.raises(ClientGone), watch.guard(receive):
        await asyncio.Event().wait()


async def test_cancellation_from_elsewhere_stays_a_cancellation() -> None:
    """The server's own cancellation is not taken for a client that left."""

    async def block() -> None:
        with DisconnectWatch(AFTER_S).guard(receiving()):
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await asyncio.sleep(3 * AFTER_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
