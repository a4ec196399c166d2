"""`AsyncClient`: embeddings from a gateway, with retries, a circuit breaker and, when safe, a second URL.

One client is one vector space: the first answer's fingerprint (or the one given) is kept, and every later
answer, from either URL, must declare the same one.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import aiohttp

from common.breaker import BreakerPolicy, CircuitState
from gateway.client.endpoint import Endpoint
from gateway.client.failover import Failover
from gateway.client.faults import Fault
from gateway.client.retry import DEFAULT_RETRY, Clock, Deadline, OnRetry, RetryPolicy, Sleep, with_retries
from gateway.client.wire import (
    EMBEDDINGS_PATH,
    INFO_PATH,
    EmbedResult,
    GatewayInfo,
    control_headers,
    decode_embeddings,
    decode_info,
    embeddings_body,
    joined,
    split,
)

T = TypeVar("T")
DEFAULT_BREAKER = BreakerPolicy()


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, whichever URL it goes to."""

    texts: Sequence[str]
    model: str | None
    dimensions: int | None
    prompt_name: str | None
    headers: dict[str, str]


class AsyncClient:
    """A pooled client of one gateway, and of a standby that serves the same model.

        async with AsyncClient("http://127.0.0.1:8080") as client:
            result = await client.embed(["What is a semantic cache?"])

    `url` and `fallback_url` may end in `/v1`, as OpenAI clients write them; the API key goes to both.
    `fingerprint` is the model's, when vectors made earlier must match; without it the first answer's is taken. A
    gateway may serve several models: use a client for each, and name the model in every call.
    `on_retry` is called with every failure that is retried and the seconds waited before. Calls may run
    concurrently, on one event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        fallback_url: str | None = None,
        fingerprint: str | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        breaker: BreakerPolicy = DEFAULT_BREAKER,
        max_connections: int = 32,
        max_parallel_requests: int = 4,
        on_retry: OnRetry | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._failover = Failover(
            Endpoint(url, api_key, breaker, clock),
            Endpoint(fallback_url, api_key, breaker, clock) if fallback_url else None,
            fingerprint,
        )
        self._policy = retry
        self._max_connections = max_connections
        self._max_parallel_requests = max_parallel_requests
        self._on_retry = on_retry
        self._clock = clock
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._max_connections))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def fingerprint(self) -> str | None:
        """The model all vectors of this client come from; None until the first answer."""
        return self._failover.fingerprint

    @property
    def circuits(self) -> dict[str, CircuitState]:
        """The breaker's state of each URL."""
        return {endpoint.url: endpoint.breaker.state for endpoint in self._endpoints()}

    def inject_fault(self, fault: Fault | str, calls: int | None = None, *, fallback: bool = False) -> None:
        """Rehearse a failure: the next `calls` requests to the first URL (or the fallback) fail with `fault`.

        fault: "connect", "timeout" or "503". Without `calls`, every request fails until `clear_faults()`.
        """
        endpoint = self._failover.fallback if fallback else self._failover.primary
        if endpoint is None:
            raise ValueError("this client has no fallback URL to make fail")
        endpoint.faults.inject(Fault(fault), calls)

    def clear_faults(self) -> None:
        """End the rehearsal on every URL."""
        for endpoint in self._endpoints():
            endpoint.faults.clear()

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        cache_control: str | None = None,
        min_fidelity: float | None = None,
    ) -> EmbedResult:
        """The vectors of `texts`, in their order.

        More than 2,048 texts become several requests, a few at a time, each with its own deadline; the first
        that fails cancels the rest. cache_control: "no-store", "no-cache" or "exact-only"; min_fidelity: the
        least cosine similarity to the recomputed vector at which a semantic hit is accepted. Raises ClientError;
        ValueError for no texts.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError("embed() takes a list of at least one text")
        headers = control_headers(cache_control, min_fidelity)
        slots = asyncio.Semaphore(self._max_parallel_requests)

        async def embed_part(part: Sequence[str]) -> EmbedResult:
            async with slots:
                return await self._embed_part(_Request(part, model, dimensions, prompt_name, headers))

        return joined(await _all_or_first_failure([embed_part(part) for part in split(texts)]))

    async def info(self, model: str | None = None) -> GatewayInfo:
        """What the gateway at the first URL reports of this model, or of its first one. Raises ClientError."""

        async def attempt(deadline: Deadline) -> GatewayInfo:
            return await self._info(deadline, self._failover.primary, model)

        return await with_retries(self._policy, attempt, clock=self._clock, sleep=self._sleep, on_retry=self._on_retry)

    async def verify_fallback(self) -> None:
        """Check now what is otherwise checked before first use: that the fallback serves the same model.

        Raises FingerprintMismatch when it does not, another ClientError when either URL does not answer.
        """
        fallback = self._failover.fallback
        if fallback is None:
            raise ValueError("this client has no fallback URL to verify")
        self._failover.require_same_model(self._failover.primary, (await self.info()).fingerprint)
        deadline = Deadline(self._clock, self._policy.deadline_s)
        await self._failover.verify_fallback(fallback, partial(self._info, deadline))

    async def _embed_part(self, request: _Request) -> EmbedResult:
        async def attempt(deadline: Deadline) -> EmbedResult:
            embed_at = partial(self._embed_at, request, deadline)
            return await self._failover.embed(embed_at, partial(self._info, deadline, model=request.model))

        return await with_retries(self._policy, attempt, clock=self._clock, sleep=self._sleep, on_retry=self._on_retry)

    async def _embed_at(self, request: _Request, deadline: Deadline, endpoint: Endpoint) -> EmbedResult:
        """One request to one URL, naming the model as that URL does when the caller named none."""
        model = request.model or endpoint.model or await self._model_of(deadline, endpoint)
        return await endpoint.call(
            self._open_session(),
            EMBEDDINGS_PATH,
            partial(decode_embeddings, count=len(request.texts), dimensions=request.dimensions),
            policy=self._policy,
            deadline=deadline,
            body=embeddings_body(request.texts, model, request.dimensions, request.prompt_name),
            headers=request.headers,
        )

    async def _model_of(self, deadline: Deadline, endpoint: Endpoint) -> str:
        info = await self._info(deadline, endpoint)
        if endpoint is self._failover.primary:  # so that the fallback can be compared before the first answer
            self._failover.require_same_model(endpoint, info.fingerprint)
        return info.model

    async def _info(self, deadline: Deadline, endpoint: Endpoint, model: str | None = None) -> GatewayInfo:
        path = INFO_PATH if model is None else f"{INFO_PATH}?{urlencode({'model': model})}"
        info = await endpoint.call(self._open_session(), path, decode_info, policy=self._policy, deadline=deadline)
        if model is None:
            endpoint.model = info.model
        return info

    def _endpoints(self) -> list[Endpoint]:
        fallback = self._failover.fallback
        return [self._failover.primary] + ([fallback] if fallback else [])

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open; use it in `async with AsyncClient(...) as client:`")
        return self._session


async def _all_or_first_failure(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first failure cancels the others and is raised itself, not as a group."""
    if len(calls) == 1:  # there is nobody to cancel: no task of its own
        return [await calls[0]]
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in tasks]
