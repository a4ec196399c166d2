"""Steady load on gateways while something breaks, with every answered vector compared to the true one.

Knows nothing of what breaks. Two kinds of client: `plain` ones send each request once and record what comes back, and
ask the next gateway where theirs is gone; `retrying` ones are `gateway.client.AsyncClient`, as an application would use
it.
"""

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp
import numpy as np

from engine.protocol import FINGERPRINT_HEADER
from gateway.client import AsyncClient, ClientError, RetryPolicy

MODEL = "all-MiniLM-L6-v2"
GAP_S = 0.5  # so long without a hit, or without a computed answer, and something is still missing
GRACE_S = 3.0  # beyond the gateway's own deadline; what takes longer has hung
KNOWN = [f"The {number}th paragraph of the handbook says who answers for line {number * 7}." for number in range(60)]
FRESH = [f"A question nobody has asked about invoice {number} before." for number in range(60)]

Truth = dict[str, dict[str, bytes]]  # fingerprint -> text -> vector


@dataclass(frozen=True, slots=True)
class Texts:
    """What a load asks for: texts that Redis may have, and texts that are computed each time."""

    model: str
    known: Sequence[str]
    fresh: Sequence[str]


TEXTS = Texts(MODEL, KNOWN, FRESH)


@dataclass(frozen=True, slots=True)
class Question:
    """One request: its texts and headers."""

    texts: list[str]
    headers: dict[str, str]
    asked_at: float


@dataclass
class Tally:
    """What a load has seen. Times are seconds of `time.monotonic`.

    waits: when each answer came, and how long it took. moved: requests sent to another gateway, since theirs was gone.
    served: answers by fingerprint.
    """

    sent: int = 0
    answered: int = 0
    wrong_vectors: int = 0
    hung: int = 0
    moved: int = 0
    longest_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    last_error_at: float = 0.0
    hits_at: list[float] = field(default_factory=list)
    computed_at: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)

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
    """Closed-loop clients: each waits for its answer and asks again. Half ask for what Redis holds, half compute.

    urls: gateways, which the clients begin with in turn.
    """

    def __init__(self, urls: Sequence[str], deadline_s: float, truth: Truth, texts: Texts = TEXTS) -> None:
        self._urls = urls
        self._limit_s = deadline_s + GRACE_S
        self._truth = truth
        self._texts = texts
        self._stop = asyncio.Event()
        self.tally = Tally()

    def stop(self) -> None:
        """Let every client finish its request and end."""
        self._stop.set()

    async def run_plain(self, clients: int) -> None:
        """Until stopped; each request is sent once, or until a gateway is there that takes it."""
        timeout = aiohttp.ClientTimeout(total=self._limit_s)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._plain(session, number) for number in range(clients)))

    async def run_retrying(self, clients: int) -> None:
        """Until stopped; failures that may pass are tried again by the client, at the first gateway."""
        policy = RetryPolicy(attempts=None, deadline_s=60, timeout_s=self._limit_s, wait_for_circuit=True)
        async with AsyncClient(self._urls[0], retry=policy, max_connections=clients) as client:
            await asyncio.gather(*(self._retrying(client, random.Random(seed)) for seed in range(clients)))

    async def _plain(self, session: aiohttp.ClientSession, number: int) -> None:
        chance, place = random.Random(number), number % len(self._urls)
        while not self._stop.is_set():
            question = self._choose(chance)
            failure = await self._ask(session, place, question)
            for _ in self._urls[1:]:
                if failure is None:
                    break
                place = (place + 1) % len(self._urls)
                self.tally.moved += 1
                failure = await self._ask(session, place, question)
            if failure is not None:
                self.tally.failed(failure)
                await asyncio.sleep(0.05)
            self._end(question)

    async def _ask(self, session: aiohttp.ClientSession, place: int, question: Question) -> str | None:
        """Ask one gateway and count its answer; what the matter is where there is no gateway to answer."""
        body = {"model": self._texts.model, "input": question.texts, "encoding_format": "base64"}
        try:
            async with session.post(f"{self._urls[place]}/v1/embeddings", json=body, headers=question.headers) as reply:
                content = await reply.json()
                if reply.status == 200:
                    vectors = [base64.b64decode(item["embedding"]) for item in content["data"]]
                    hits = "exact" in reply.headers["x-cache-items"]
                    self._check(reply.headers[FINGERPRINT_HEADER], question, vectors, hits)
                else:
                    self.tally.failed(f"{reply.status} {content['error']['code']}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.tally.hung += 1
            self.tally.failed("hung")
        except (aiohttp.ClientError, OSError) as error:
            return "refused" if isinstance(error, aiohttp.ClientConnectorError) else "connection lost"
        return None

    async def _retrying(self, client: AsyncClient, chance: random.Random) -> None:
        while not self._stop.is_set():
            question = self._choose(chance)
            try:
                result = await client.embed(question.texts, cache_control=question.headers.get("x-cache-control"))
            except ClientError as error:
                self.tally.failed(type(error).__name__)
            else:
                vectors = [vector.tobytes() for vector in result.vectors]
                self._check(result.fingerprint or "", question, vectors, "exact" in result.tiers)
            self._end(question)

    def _choose(self, chance: random.Random) -> Question:
        """One to three texts, with duplicates now and then; counted as sent."""
        self.tally.sent += 1
        count, now = chance.choice([1, 1, 2, 3]), time.monotonic()
        if chance.random() < 0.5:
            return Question(chance.choices(self._texts.known, k=count), {}, now)
        return Question(chance.choices(self._texts.fresh, k=count), {"x-cache-control": "no-cache"}, now)

    def _end(self, question: Question) -> None:
        self.tally.longest_s = max(self.tally.longest_s, time.monotonic() - question.asked_at)

    def _check(self, fingerprint: str, question: Question, vectors: list[bytes], is_hit: bool) -> None:
        """An answer is right where each vector is the one that the model it names gives for the text."""
        now, true = time.monotonic(), self._truth.get(fingerprint, {})
        self.tally.answered += 1
        self.tally.served[fingerprint] += 1
        pairs = zip(question.texts, vectors, strict=True)
        self.tally.wrong_vectors += sum(true.get(text) != vector for text, vector in pairs)
        self.tally.waits.append((now, now - question.asked_at))
        (self.tally.hits_at if is_hit else self.tally.computed_at).append(now)


async def true_vectors(url: str) -> Truth:
    """Every text's vector, computed alone and uncached, one request a text; then the known ones are put in Redis."""
    truth: Truth = {}
    async with aiohttp.ClientSession(url) as session:
        for text in [*KNOWN, *FRESH]:
            control = "no-cache" if text in KNOWN else "no-store"
            body = {"model": MODEL, "input": text}
            async with session.post("/v1/embeddings", json=body, headers={"x-cache-control": control}) as reply:
                (item,) = (await reply.json())["data"]
                vector = np.array(item["embedding"], dtype="<f4").tobytes()
                truth.setdefault(reply.headers[FINGERPRINT_HEADER], {})[text] = vector
    return truth
