"""What a request holds from its head to the end of its reply."""

import asyncio
from collections.abc import Iterable

import orjson
import pytest
from starlette.types import Message, Scope

from gateway.auth_failures import MAX_A_MINUTE
from gateway.http import Exchange, Front, Reply
from gateway.settings import ApiKey, GatewaySettings
from gateway.tenants import Tenants
from gateway.work_pool import WorkPool

MIB = 1024 * 1024
KEYS = {"key-of-namespace-a": ApiKey(namespace="a"), "key-of-namespace-b": ApiKey(namespace="b")}


def front(**settings: int) -> Front:
    chosen = GatewaySettings(api_keys=KEYS, **settings)
    return Front(chosen, Tenants(chosen.api_keys), WorkPool())


async def echo(exchange: Exchange) -> Reply:
    return Reply(exchange.take_body())


class Client:
    """One request and what came back."""

    def __init__(self, *parts: bytes, key: bytes = b"key-of-namespace-a", length: int | None = None) -> None:
        headers = [(b"authorization", b"Bearer " + key)]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        self.scope: Scope = {"type": "http", "headers": headers, "client": ("10.0.0.1", 1)}
        self._parts = list(parts)
        self.taken = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = b""
        self.status = 0

    async def receive(self) -> Message:
        if not self._parts:
            await asyncio.Event().wait()
        part = self._parts.pop(0)
        self.taken += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.status = message.get("status", self.status)
        self.sent += message.get("body", b"")

    async def ask(self, front: Front) -> int:
        await front.route(echo)(self.scope, self.receive, self.send)
        return self.status


async def statuses(front: Front, clients: Iterable[Client]) -> list[int]:
    return [await client.ask(front) for client in clients]


async def test_a_request_is_in_flight_until_its_reply_is_sent() -> None:
    """A client that does not read keeps its place, and the bytes of its reply."""
    at = front(max_concurrent_requests=2, max_bodies_mb=32)
    slow = Client(b"x" * 12 * MIB)
    slow.reads.clear()
    asking = asyncio.create_task(slow.ask(at))
    while slow.taken == 0:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (asking.done(), at.in_flight) == (False, 1)
    assert await Client(b"{}").ask(at) == 429
    assert await Client(b"{}", key=b"key-of-namespace-b").ask(at) == 200
    assert await Client(b"{}", key=b"key-of-namespace-b", length=9 * MIB).ask(at) == 429
    slow.reads.set()
    assert (await asking, len(slow.sent), at.in_flight) == (200, 12 * MIB, 0)
    assert await Client(b"{}").ask(at) == 200


async def test_declared_bodies_are_refused_before_they_are_read() -> None:
    """When all may have is taken; where it is longer than any may be, that is the reason."""
    at = front(max_body_mb=1, max_bodies_mb=2)
    first = Client(b"x" * 100, length=MIB)
    first.reads.clear()
    asking = asyncio.create_task(first.ask(at))
    await asyncio.sleep(0)
    second, longer = Client(b"x", length=MIB), Client(b"x", length=MIB + 1)
    other = Client(b"x", key=b"key-of-namespace-b", length=1000)
    assert await statuses(at, [second, longer, other]) == [429, 413, 200]
    assert (second.taken, longer.taken) == (0, 0)
    assert orjson.loads(second.sent)["error"]["code"] == "overloaded"
    first.reads.set()
    await asking
    assert await Client(b"x", length=MIB).ask(at) == 200


async def test_other_bodies_are_refused_as_they_grow() -> None:
    """A body without a length holds what has come of it."""
    at = front(max_body_mb=1, max_bodies_mb=2)
    held = Client(b"x" * (MIB - 1), length=MIB - 1)
    held.reads.clear()
    asking = asyncio.create_task(held.ask(at))
    await asyncio.sleep(0)
    growing = Client(*[b"x" * 1000] * 1000)
    assert await growing.ask(at) == 429
    assert growing.taken < 10_000
    held.reads.set()
    await asking


async def test_wrong_keys_get_429_in_time_and_right_ones_pass() -> None:
    """A request without a key is no guess. The right key of a client at the same address is served."""
    at = front()
    nobody = Client(b"{}")
    nobody.scope["headers"] = []
    assert set(await statuses(at, [nobody] * 100)) == {401}
    wrong = await statuses(at, (Client(b"{}", key=b"key-%d" % number) for number in range(MAX_A_MINUTE + 5)))
    assert wrong == [401] * MAX_A_MINUTE + [429] * 5
    assert await Client(b"{}").ask(at) == 200


def test_bodies_in_work_have_room_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one of several tenants could not send the largest there is."""
    with pytest.raises(ValueError, match="max_bodies_mb must be at least 32"):
        GatewaySettings(max_bodies_mb=31)
    assert GatewaySettings(max_body_mb=2).max_bodies_bytes == 32 * MIB
