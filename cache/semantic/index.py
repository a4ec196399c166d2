"""The semantic index: finds the neighbours of a static vector. One index per model.

`Index` is what the tier needs; `RedisIndex` keeps it in RediSearch:

    document   dv1:t:<index id>:<digest hex>   HASH  ns (tag, hex), v (static vector, float16[dimensions]), e (engine's
                                               vector in the same space, likewise), m (MAC over all of it); TTL
    index      dv1:ti:<index id>:flat | :hnsw  over those documents

A document is named by the digest of its exact entry and expires with it, so a neighbour always names the stored
vector it stands for. Each neighbour's MAC is checked, not only that of the one that is served: the others' vectors
decide how similar it is taken to be.

RediSearch's traps are handled here and nowhere else: COSINE is a distance in [0, 2]; a query or a field of the wrong
length fails silently (the index id names the static embedding's size, and FT.INFO's failures are watched); expired
documents come back as nil after the top k is chosen; a small index is FLAT (exact), and beyond `hnsw_from` documents an
HNSW index is built beside it and takes over once it has caught up.

valkey-search differs: up to 1.2 it knows FLOAT32 alone for `v`, takes no TAG values from PARAMS and no SORTBY (its
replies come in order), and reports its progress under another name. What the index has is read from FT.INFO.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from cache.authentication import Seal
from cache.keys import PREFIX
from cache.redis_link import RedisAway, RedisLink, command

log = logging.getLogger("dejavec.cache")

DOCUMENT_PREFIX: Final = PREFIX + b"t:"  # "s:" had no MAC
INDEX_PREFIX: Final = PREFIX + b"ti:"
EF_RUNTIME: Final = 64  # the default of 10 misses neighbours
INFO_COMMAND: Final = "FT.INFO"
CHECK_INTERVAL_S: Final = 5.0
MAX_FAULT_CHARS: Final = 200
MAX_TEXTS_AT_ONCE: Final = 32  # in one pipeline, which has the look-up's time limit

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Whose exact entry it is, and its two vectors, float32[dimensions], unit length."""

    digest: bytes
    static_vector: Float32Array
    projected: Float32Array


class Index(Protocol):
    """Neighbours of static vectors, by the tag of their scope; see `RedisIndex`."""

    @property
    def documents(self) -> int: ...

    @property
    def failures(self) -> int: ...

    @property
    def is_usable(self) -> bool: ...

    @property
    def kind(self) -> str: ...

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]: ...

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None: ...

    async def remove(self, digest: bytes) -> None: ...

    async def run_checks(self) -> None: ...


class NoSearchModule(Exception):
    """This Redis has no search module, or is a cluster."""


class RedisIndex:
    """KNN over the static vectors of one model. `run_checks` must be running for the index to exist and stay sound."""

    def __init__(
        self,
        link: RedisLink,
        secret: bytes,
        index_id: str,
        dimensions: int,
        hnsw_from: int = 20_000,
        timeout_s: float = 0.05,
    ) -> None:
        self._link = link
        self._seal = Seal(secret, "document")
        self._dimensions = dimensions
        self._documents = DOCUMENT_PREFIX + index_id.encode() + b":"
        self._names = {kind: INDEX_PREFIX + index_id.encode() + b":" + kind.encode() for kind in ("flat", "hnsw")}
        self._hnsw_from = hnsw_from
        self._timeout_s = timeout_s
        self._active: str | None = None
        self._lacks_module = False
        self._fault = ""  # why the module does not make our index, as it said last
        self._vectors: Literal["<f2", "<f4"] = "<f2"  # how the index has `v`
        self._sorts_itself = False
        self.documents = 0
        self.failures = 0

    @property
    def is_usable(self) -> bool:
        """Whether look-ups are answered at all; a gateway without a usable index answers from the other tiers."""
        return self._active is not None

    @property
    def kind(self) -> str:
        """`flat`, `hnsw`, or `none`."""
        return self._active or "none"

    async def nearest(self, tag: str, static_vectors: Float32Array, k: int) -> list[list[Neighbour]]:
        """Up to k neighbours of each of float32[n, dimensions] unit vectors, nearest first, pipelined.

        n is at most `MAX_TEXTS_AT_ONCE`.
        Whatever goes wrong (time-out, no index, a damaged reply) gives no neighbours, never an exception.
        """
        nothing: list[list[Neighbour]] = [[] for _ in range(len(static_vectors))]
        if self._active is None or len(static_vectors) > MAX_TEXTS_AT_ONCE:
            return nothing
        blobs = [row.tobytes() for row in static_vectors.astype(self._vectors)]

        async def search(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as commands:
                for blob in blobs:
                    commands.execute_command(*self._query(tag, blob, k))
                replies: list[Any] = await commands.execute(raise_on_error=False)
                return replies

        try:
            replies = await self._link.call(search, timeout_s=self._timeout_s)
        except RedisAway:
            return nothing
        if any(isinstance(reply, ResponseError) for reply in replies):
            self._active = None  # checked and rebuilt in the background; misses until then
        return [self._parse(tag, reply, k) for reply in replies]

    async def add(self, entries: Sequence[tuple[str, Neighbour]], ttl_s: int) -> None:
        """Put (tag, neighbour) pairs into the index, with the life of their exact entries. Raises RedisAway."""
        keys = [self._documents + one.digest.hex().encode() for _, one in entries]

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as commands:
                for key, (tag, one) in zip(keys, entries, strict=True):
                    v, e = one.static_vector.astype(self._vectors).tobytes(), one.projected.astype("<f2").tobytes()
                    fields: dict[Any, Any] = {"ns": tag, "v": v, "e": e, "m": self._seal.mac(_name(tag, key), v + e)}
                    commands.hset(key, mapping=fields)
                    commands.expire(key, ttl_s)
                done = await commands.execute(raise_on_error=False)
            if spoiled := [key for key, one in zip(keys, done[::2], strict=True) if _is_of_another_type(one)]:
                await redis.unlink(*spoiled)  # for the next time
            for one in done:
                if isinstance(one, RedisError) and not _is_of_another_type(one):
                    raise one

        await self._link.call(write, timeout_s=self._link.write_timeout_s)

    async def remove(self, digest: bytes) -> None:
        """Take a neighbour out. Raises RedisAway."""
        key = self._documents + digest.hex().encode()
        await self._link.call(lambda redis: redis.unlink(key))

    async def run_checks(self) -> None:
        """Create, check and rebuild the index until cancelled."""
        while True:
            try:
                await self.check()
            except (RedisAway, NoSearchModule):
                self._active = None
            await asyncio.sleep(CHECK_INTERVAL_S if self._active or self._lacks_module else 1.0)

    async def check(self) -> None:
        """Look at the index once: make it when missing, rebuild it when broken, grow it when large.

        Raises RedisAway, NoSearchModule.
        """
        if self._link.is_cluster:  # documents would lie on other servers than their index
            self._lacks_module = True
            raise NoSearchModule
        flat, hnsw = await self._info("flat"), await self._info("hnsw")
        if flat is None and hnsw is None:
            self._note_fault(await self._create("flat"))
            flat = await self._info("flat")
        active = "hnsw" if hnsw is not None and (flat is None or _is_complete(hnsw)) else "flat"
        info = hnsw if active == "hnsw" else flat
        if info is None:
            self._active = None
            return
        self.documents = int(float(info.get("num_docs", 0)))
        self.failures = int(float(info.get("hash_indexing_failures", 0)))
        if not self._is_sound(info):
            log.warning("the semantic index is broken (%d failures); it is rebuilt", self.failures)
            self._active = None
            await self._drop(active)
            return
        self._vectors = "<f4" if _vector_field(info).get("data_type") == "FLOAT32" else "<f2"
        self._sorts_itself = "backfill_complete_percent" in info
        self._active = active
        if active == "flat" and hnsw is None and self.documents >= self._hnsw_from:
            log.info("the semantic index has %d documents; building HNSW beside it", self.documents)
            await self._create("hnsw")
        elif active == "hnsw" and flat is not None:
            await self._drop("flat")

    def _query(self, tag: str, blob: bytes, k: int) -> tuple[object, ...]:
        assert self._active is not None
        runtime = f" EF_RUNTIME {EF_RUNTIME}" if self._active == "hnsw" else ""
        query = f"(@ns:{{{tag}}})=>[KNN {k} @v $v{runtime} AS d]"  # a tag is hex: nothing in it can end the query
        order = () if self._sorts_itself else ("SORTBY", "d")
        limits = ("LIMIT", 0, k, "DIALECT", 2, "TIMEOUT", max(1, int(1000 * self._timeout_s)))
        fields = ("RETURN", 3, "v", "e", "m")
        return "FT.SEARCH", self._names[self._active], query, "PARAMS", 2, "v", blob, *fields, *order, *limits

    def _parse(self, tag: str, reply: Any, k: int) -> list[Neighbour]:
        """At most k neighbours of one RESP2 reply: [total, key, [field, value, ...], key, nil, ...].

        What has another shape is passed over, and so are more documents than were asked for: a decision takes as long
        as their number cubed.
        """
        if not isinstance(reply, list):
            return []
        found = []
        for key, fields in zip(reply[1 : 2 * k + 1 : 2], reply[2 : 2 * k + 1 : 2], strict=False):
            if not isinstance(key, bytes) or not key.startswith(self._documents) or not _is_all_bytes(fields):
                continue
            neighbour = self._neighbour(tag, key, dict(zip(fields[::2], fields[1::2], strict=False)))
            if neighbour is not None:
                found.append(neighbour)
        return found

    def _neighbour(self, tag: str, key: bytes, fields: dict[bytes, bytes]) -> Neighbour | None:
        """The neighbour in a document, if a gateway put it there for this tag; counted where not."""
        v, e, mac = (fields.get(name) or b"" for name in (b"v", b"e", b"m"))
        if len(v) != int(self._vectors[-1]) * self._dimensions or len(e) != 2 * self._dimensions:
            self._seal.refuse("size")
            return None
        if not self._seal.fits(_name(tag, key), v + e, mac):
            return None
        static = np.frombuffer(v, dtype=self._vectors).astype(np.float32)
        projected = np.frombuffer(e, dtype="<f2").astype(np.float32)
        if not (np.isfinite(static).all() and np.isfinite(projected).all()):
            self._seal.refuse("not_finite")
            return None
        return Neighbour(bytes.fromhex(key[len(self._documents) :].decode("ascii")), static, projected)

    def _is_sound(self, info: dict[str, Any]) -> bool:
        """Schema as ours, and failures not the rule: documents of another size fail silently."""
        if int(_vector_field(info).get("dim", self._dimensions)) != self._dimensions:
            return False
        return self.failures <= max(10, self.documents // 10)

    async def _info(self, kind: str) -> dict[str, Any] | None:
        async def info(redis: Redis) -> dict[str, Any] | None:
            try:
                reply = await command(redis, INFO_COMMAND, self._names[kind])
            except ResponseError as error:
                lacks_module.append("unknown command" in str(error).lower())
                return None
            return dict(_pairs(reply))

        lacks_module: list[bool] = []  # decided here, not raised inside: it is an answer, and no failure of Redis
        found = await self._link.call(info, timeout_s=1.0)
        self._note_module(any(lacks_module))
        return found

    def _note_module(self, is_lacking: bool) -> None:
        if is_lacking and not self._lacks_module:
            log.info("this Redis has no RediSearch: exact entries alone, no semantic hits")
        self._lacks_module = is_lacking
        if is_lacking:
            raise NoSearchModule

    def _note_fault(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.warning("the search module makes no index for semantic hits: %s", fault)
        self._fault = fault

    async def _create(self, kind: str) -> str:
        """Make an index, of FLOAT32 where the module has no FLOAT16; what it says where it makes none."""

        async def create(redis: Redis) -> str:
            said = ""
            for numbers in ("FLOAT16", "FLOAT32"):
                try:
                    await command(redis, *self._schema(kind, numbers))
                except ResponseError as error:
                    if "already exists" in str(error):
                        return ""
                    said = str(error)
                else:
                    return ""
            return said[:MAX_FAULT_CHARS]

        return await self._link.call(create, timeout_s=2.0)

    def _schema(self, kind: str, numbers: str) -> list[Any]:
        vector = ["TYPE", numbers, "DIM", self._dimensions, "DISTANCE_METRIC", "COSINE"]
        words = ["FT.CREATE", self._names[kind], "ON", "HASH", "PREFIX", 1, self._documents]
        return [*words, "SCHEMA", "ns", "TAG", "CASESENSITIVE", "v", "VECTOR", kind.upper(), len(vector), *vector]

    async def _drop(self, kind: str) -> None:
        async def drop(redis: Redis) -> None:
            try:
                await command(redis, "FT.DROPINDEX", self._names[kind])
            except ResponseError:
                return  # another gateway was first

        await self._link.call(drop, timeout_s=2.0)


def _name(tag: str, key: bytes) -> bytes:
    """What a document's MAC binds it to: the scope it was made in, and its key."""
    return tag.encode() + b":" + key


def _is_all_bytes(fields: Any) -> bool:
    """Whether these are a document's names and values: one that has expired since is nil, a field that is gone too."""
    return isinstance(fields, list) and all(one is None or isinstance(one, bytes) for one in fields)


def _is_of_another_type(answer: object) -> bool:
    """Whether a command met something under its key that is no hash."""
    return isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer)


def _is_complete(info: dict[str, Any]) -> bool:
    return float(info.get("percent_indexed", info.get("backfill_complete_percent", 1))) >= 1.0


def _vector_field(info: dict[str, Any]) -> dict[str, Any]:
    """`dim` and `data_type` of the vector field; valkey-search has them one level deeper, and another name for one."""
    fields = [dict(_pairs(attribute)) for attribute in info.get("attributes", [])]
    field = next((one for one in fields if one.get("type") == "VECTOR"), {})
    own = dict(_pairs(field["index"])) if isinstance(field.get("index"), list) else {}
    return {"dim": own["dimensions"], **own} if "dimensions" in own else field


def _pairs(reply: Sequence[Any]) -> list[tuple[str, Any]]:
    """A flat RESP2 map as pairs, names as text."""
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in reply[::2]]
    values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in reply[1::2]]
    return list(zip(names, values, strict=False))
