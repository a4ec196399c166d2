"""Steady load on a gateway while something breaks, with every answered vector compared to the true one.

Knows nothing of what breaks. Two kinds of client: `plain` ones send each request once and record what comes back;
`retrying` ones are `gateway.client.AsyncClient`, as an application would use it.
"""

import asyncio
import base64
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp
import numpy as np

from gateway.client import AsyncClient, ClientError, RetryPolicy

MODEL = "all-MiniLM-L6-v2"
GAP_S = 0.5  # so long without a hit, or without a computed answer, and something is still missing
GRACE_S = 3.0  # beyond the gateway's own deadline; what takes longer has hung
KNOWN = [f"The {number}th paragraph of the handbook says who answers for line {number * 7}." for number in range(60)]
FRESH = [f"A question nobody has asked about invoice {number} before." for number in range(60)]


@dataclass
class Tally:
    """What a load has seen. Times are seconds of `time.monotonic`."""

    sent: int = 0
    answered: int = 0
    wrong_vectors: int = 0
    hung: int = 0
    longest_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    last_error_at: float = 0.0
    hits_at: list[float] = field(default_factory=list)
    computed_at: list[float] = field(default_factory=list)

    def failed(self, kind: str) -> None:
        """Count one failure of this kind."""
        self.errors[kind] += 1
        self.last_error_at = time.monotonic()

    def whole_since(self, healed_at: float) -> float | None:
        """Seconds from `healed_at` until hits and computed answers came again, without a gap, and nothing failed.

        None while that is not so: one of the two has not come, or has been silent for GAP_S.
        """
        moments = [healed_at, self.last_error_at]
        for answers in (self.hits_at, self.computed_at):
            if not answers or answers[-1] < max(healed_at, time.monotonic() - GAP_S):
                return None
            moments += [after for before, after in pairwise(answers) if after >= healed_at and after - before > GAP_S]
        return max(moments) - healed_at


class Load:
    """Closed-loop clients: each waits for its answer and asks again. Half ask for what Redis holds, half compute."""

    def __init__(self, url: str, deadline_s: float, truth: dict[str, bytes]) -> None:
        self._url = url
        self._limit_s = deadline_s + GRACE_S
        self._truth = truth
        self._stop = asyncio.Event()
        self.tally = Tally()

    def stop(self) -> None:
        """Let every client finish its request and end."""
        self._stop.set()

    async def run_plain(self, clients: int) -> None:
        """Until stopped; each request is sent once."""
        timeout = aiohttp.ClientTimeout(total=self._limit_s)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(self._url, timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._plain(session, random.Random(seed)) for seed in range(clients)))

    async def run_retrying(self, clients: int) -> None:
        """Until stopped; failures that may pass are tried again by the client."""
        policy = RetryPolicy(attempts=None, deadline_s=60, timeout_s=self._limit_s, wait_for_circuit=True)
        async with AsyncClient(self._url, retry=policy, max_connections=clients) as client:
            await asyncio.gather(*(self._retrying(client, random.Random(seed)) for seed in range(clients)))

    async def _plain(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        while not self._stop.is_set():
            texts, headers = _choose(chance)
            body = {"model": MODEL, "input": texts, "encoding_format": "base64"}
            started = self._begin()
            try:
                async with session.post("/v1/embeddings", json=body, headers=headers) as reply:
                    content = await reply.json()
                    if reply.status == 200:
                        vectors = [base64.b64decode(item["embedding"]) for item in content["data"]]
                        self._check(texts, vectors, "exact" in reply.headers["x-cache-items"])
                    else:
                        self.tally.failed(f"{reply.status} {content['error']['code']}")
                        await asyncio.sleep(0.05)
            except TimeoutError:
                self.tally.hung += 1
                self.tally.failed("hung")
            except (aiohttp.ClientError, OSError) as error:
                self.tally.failed("refused" if isinstance(error, aiohttp.ClientConnectorError) else "connection lost")
                await asyncio.sleep(0.05)
            self._end(started)

    async def _retrying(self, client: AsyncClient, chance: random.Random) -> None:
        while not self._stop.is_set():
            texts, headers = _choose(chance)
            started = self._begin()
            try:
                result = await client.embed(texts, cache_control=headers.get("x-cache-control"))
            except ClientError as error:
                self.tally.failed(type(error).__name__)
            else:
                self._check(texts, [vector.tobytes() for vector in result.vectors], "exact" in result.tiers)
            self._end(started)

    def _begin(self) -> float:
        self.tally.sent += 1
        return time.monotonic()

    def _end(self, started: float) -> None:
        self.tally.longest_s = max(self.tally.longest_s, time.monotonic() - started)

    def _check(self, texts: list[str], vectors: list[bytes], is_hit: bool) -> None:
        self.tally.answered += 1
        self.tally.wrong_vectors += sum(
            self._truth[text] != vector for text, vector in zip(texts, vectors, strict=True)
        )
        (self.tally.hits_at if is_hit else self.tally.computed_at).append(time.monotonic())


def _choose(chance: random.Random) -> tuple[list[str], dict[str, str]]:
    """Texts and headers of one request: one to three texts, with duplicates now and then."""
    count = chance.choice([1, 1, 2, 3])
    if chance.random() < 0.5:
        return chance.choices(KNOWN, k=count), {}
    return chance.choices(FRESH, k=count), {"x-cache-control": "no-cache"}


async def true_vectors(url: str) -> dict[str, bytes]:
    """Every text's vector, computed alone and uncached, one request a text; then the known ones are put in Redis."""
    truth: dict[str, bytes] = {}
    async with aiohttp.ClientSession(url) as session:
        for text in [*KNOWN, *FRESH]:
            control = "no-cache" if text in KNOWN else "no-store"
            body = {"model": MODEL, "input": text}
            async with session.post("/v1/embeddings", json=body, headers={"x-cache-control": control}) as reply:
                (item,) = (await reply.json())["data"]
                truth[text] = np.array(item["embedding"], dtype="<f4").tobytes()
    return truth
