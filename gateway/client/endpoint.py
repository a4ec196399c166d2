"""One URL of a client: its breaker, its fault switch, and the decoding of what it answers.

A reply that cannot be decoded is a failure of the URL like any other, so decoding happens inside the breaker.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import aiohttp

from common.breaker import BreakerPolicy
from common.credentials import shown_url
from common.gateway_url import base_url
from gateway.client.breaker import UrlBreaker
from gateway.client.errors import GatewayFault, InvalidReply, TimedOut, TransportError, Unavailable
from gateway.client.faults import FaultSwitch
from gateway.client.retry import Clock, Deadline, RetryPolicy
from gateway.client.transport import Reply, raise_for_status, send

T = TypeVar("T")

# Failures that count against a URL. A 429 or a 4xx does not: it has answered.
URL_FAILURES: tuple[type[Exception], ...] = (TransportError, Unavailable, GatewayFault, InvalidReply)


class Endpoint:
    """A base URL and its state."""

    def __init__(self, url: str, api_key: str | None, breaker: BreakerPolicy, clock: Clock) -> None:
        self.url = base_url(url)
        self.breaker = UrlBreaker(shown_url(self.url), breaker, URL_FAILURES, clock)
        self.faults = FaultSwitch()
        self.model: str | None = None  # the model's name as this URL gives it, once read
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def call(
        self,
        session: aiohttp.ClientSession,
        path: str,
        decode: Callable[[Reply], T],
        *,
        policy: RetryPolicy,
        deadline: Deadline,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """POST `body` (or GET without one) once, and decode the answer. Raises ClientError."""
        sent = {**self._headers, **(headers or {}), "Accept": "application/json"}
        if body is not None:
            sent["Content-Type"] = "application/json"
        left_s = deadline.left_s()
        if left_s <= 0:  # not the URL's fault, so not the breaker's business
            raise TimedOut(f"{shown_url(self.url)}: the deadline passed before the request was sent")
        limits = aiohttp.ClientTimeout(
            total=min(policy.timeout_s, left_s), sock_connect=min(policy.connect_timeout_s, left_s)
        )
        method = "GET" if body is None else "POST"
        with self.breaker.call():
            reply = await send(
                session, method, self.url + path, body=body, headers=sent, limits=limits, faults=self.faults
            )
            raise_for_status(reply)
            return decode(reply)
