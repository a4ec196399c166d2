"""The exact tier: vectors as Redis strings under keyed hashes of token ids.

Look-ups of concurrent requests are joined into one MGET (measured: one GET a time 19,000/s, MGET of 64 keys
390,000 keys/s), in a cluster into one pipeline for each server. Writes go through a bounded queue after the reply,
where those of `WRITE_GATHER_S` share one command: until then only the gateway process that computed a text has it. A
value is sealed under its key's digest, so one that is damaged, of another length, under another key, or of someone
without the key secret is a counted miss. Only finite vectors are sealed, so what opens is finite: a check at every
look-up would cost 20 us of a lone text.

    value = seal (17 bytes, `cache.authentication`) | dtype (1 byte: "f" float32, "h" float16) | vector, little-endian
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis

from cache.authentication import Seal
from cache.keys import exact_key
from cache.metrics import EXACT_ERRORS, EXACT_LOOKUP_SECONDS, WRITE_DROPPED, WRITTEN
from cache.redis_link import RedisAway, RedisLink, exchange
from common.batch_queue import BatchQueue

log = logging.getLogger("dejavec.cache")

FLOAT32: Final = b"f"
FLOAT16: Final = b"h"
MAX_KEYS_PER_MGET: Final = 1024
MAX_PARALLEL_MGETS: Final = 2
WRITES_AT_ONCE: Final = 128
WRITE_GATHER_S: Final = 0.02  # a write of its own costs a lone text as much as its look-up; a quarter of one does not

# One script for a batch of (life in seconds, value) pairs: a fifth of a pipeline's CPU time in this process.
WRITE: Final = """
for place, key in ipairs(KEYS) do redis.call('SET', key, ARGV[2 * place], 'EX', ARGV[2 * place - 1]) end
return #KEYS
"""

Dtype = Literal["float32", "float16"]
Float32Array = npt.NDArray[np.float32]


def encode_value(seal: Seal, digest: bytes, vector: bytes, dtype: Dtype) -> bytes:
    """One stored value from float32 bytes. Raises ValueError for numbers that are not finite in this dtype."""
    numbers: npt.NDArray[np.floating[Any]] = np.frombuffer(vector, dtype="<f4")
    kind, content = FLOAT32, vector
    if dtype == "float16":
        with np.errstate(over="ignore"):
            numbers = numbers.astype("<f2")
        kind, content = FLOAT16, numbers.tobytes()
    if not np.isfinite(numbers).all():
        raise ValueError("only finite vectors are stored")
    return seal.seal(digest, kind, content)


def decode_value(seal: Seal, digest: bytes, value: bytes, dimensions: int) -> bytes | None:
    """float32 bytes of `dimensions` numbers, or None when the value is not one sealed for this digest."""
    content = seal.open(digest, value)
    if content is None:
        return None
    kind, payload = content[:1], content[1:]
    if kind == FLOAT32 and len(payload) == 4 * dimensions:
        return payload
    if kind == FLOAT16 and len(payload) == 2 * dimensions:
        return _from_float16(payload)
    seal.refuse("size")
    return None


def as_stored(vector: bytes, dtype: Dtype) -> bytes:
    """The float32 bytes a later hit will return for this vector: itself, or rounded through float16.

    Serving this form on the miss as well keeps a text's vector the same whatever tier answers.
    """
    if dtype == "float32":
        return vector
    return _from_float16(np.frombuffer(vector, dtype="<f4").astype("<f2").tobytes())


async def _write_all(redis: Redis, keys: list[bytes], values: list[bytes | int]) -> list[bool]:
    if len(keys) == 1:
        await exchange(redis, b"SET", keys[0], values[1], b"EX", values[0])
    else:
        await exchange(redis, b"EVAL", WRITE, len(keys), *keys, *values)
    return [True] * len(keys)


def _from_float16(payload: bytes) -> bytes:
    wide = np.frombuffer(payload, dtype="<f2").astype("<f4")
    norm = float(np.linalg.norm(wide))
    return (wide / np.float32(norm)).astype("<f4").tobytes() if norm > 0 else wide.tobytes()


class ExactTier:
    """Coalesced look-ups and queued writes over a RedisLink. `run_writer` must be running for writes to happen."""

    def __init__(
        self,
        link: RedisLink,
        secret: bytes,
        ttl_s: int,
        ttl_jitter: float,
        dtype: Dtype = "float32",
        max_queued_writes: int = 8192,
    ) -> None:
        self._link = link
        self._seal = Seal(secret, "exact")
        self._least_ttl_s = max(1.0, ttl_s * (1 - ttl_jitter))
        self._ttl_range_s = max(0.0, ttl_s * (1 + ttl_jitter) - self._least_ttl_s)
        self._dtype = dtype
        self._waiting: deque[tuple[Sequence[bytes], asyncio.Future[list[bytes | None]]]] = deque()
        self._drains: set[asyncio.Task[None]] = set()
        self._writes = BatchQueue(self._write, max_queued_writes, WRITES_AT_ONCE, WRITE_GATHER_S)

    async def get_many(self, digests: Sequence[bytes], dimensions: int) -> list[bytes | None]:
        """float32 bytes for each digest, None where there is no sound entry. Never raises for Redis' sake."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._waiting.append((digests, future))
        # One that has ended takes no more look-ups, also before its callback has taken it out.
        if sum(not drain.done() for drain in self._drains) < MAX_PARALLEL_MGETS:
            task = loop.create_task(self._drain())
            self._drains.add(task)
            task.add_done_callback(self._drains.discard)
        values = await future
        pairs = zip(digests, values, strict=True)
        return [None if value is None else self._sound(digest, value, dimensions) for digest, value in pairs]

    def put_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue (digest, float32 bytes) pairs for writing; what does not fit is dropped and counted."""
        dropped = self._writes.put_many(entries)
        if dropped:
            WRITE_DROPPED.labels("queue_full").inc(dropped)

    @property
    def queued_writes(self) -> int:
        """Vectors waiting to be written."""
        return len(self._writes)

    async def flush(self, timeout_s: float) -> None:
        """Wait until all queued writes are done, at most `timeout_s`."""
        if not await self._writes.flush(timeout_s):
            log.warning("stopped with %d vectors not written back", len(self._writes))

    async def run_writer(self) -> None:
        """Write queued entries until cancelled."""
        await self._writes.run()

    async def _write(self, batch: list[tuple[bytes, bytes]]) -> None:
        keys: list[bytes] = []
        values: list[bytes | int] = []
        for digest, vector in batch:
            try:
                value = encode_value(self._seal, digest, vector, self._dtype)
            except ValueError:
                WRITE_DROPPED.labels("not_finite").inc()
                continue
            keys.append(exact_key(digest))
            values += (self._jittered_ttl_s(), value)
        try:
            done = await self._link.on_each(
                keys,
                lambda redis: _write_all(redis, keys, values),
                lambda place: (b"SET", keys[place], values[2 * place + 1], b"EX", values[2 * place]),
                self._link.write_timeout_s,
            )
        except RedisAway:
            done = [None] * len(keys)
        written = sum(one is not None for one in done)
        WRITTEN.inc(written)
        if written < len(keys):
            WRITE_DROPPED.labels("failed").inc(len(keys) - written)

    def _jittered_ttl_s(self) -> int:
        """The TTL spread evenly by the jitter, so that entries of one burst do not expire in one burst."""
        return round(self._least_ttl_s + self._ttl_range_s * random.random())  # noqa: S311  protects nothing

    async def _drain(self) -> None:
        """Serve waiting look-ups, as many as fit one MGET at a time, until none waits."""
        while self._waiting:
            group = [self._waiting.popleft()]
            count = len(group[0][0])
            while self._waiting and count + len(self._waiting[0][0]) <= MAX_KEYS_PER_MGET:
                group.append(self._waiting.popleft())
                count += len(group[-1][0])
            values = await self._mget([digest for digests, _ in group for digest in digests])
            start = 0
            for digests, future in group:
                if not future.done():
                    future.set_result(values[start : start + len(digests)])
                start += len(digests)

    async def _mget(self, digests: list[bytes]) -> list[bytes | None]:
        keys = [exact_key(digest) for digest in digests]
        started = time.perf_counter()
        try:
            values = await self._link.on_each(
                keys, lambda redis: exchange(redis, b"MGET", *keys), lambda place: (b"GET", keys[place])
            )
        except RedisAway:
            return [None] * len(keys)
        except Exception:
            # an unforeseen fault must not leave look-ups waiting for ever
            log.exception("exact look-up failed")
            EXACT_ERRORS.labels("other").inc()
            return [None] * len(keys)
        EXACT_LOOKUP_SECONDS.observe(time.perf_counter() - started)
        return [value if isinstance(value, bytes) else None for value in values]

    def _sound(self, digest: bytes, value: bytes, dimensions: int) -> bytes | None:
        vector = decode_value(self._seal, digest, value, dimensions)
        if vector is None:
            EXACT_ERRORS.labels("corrupt").inc()
        return vector
