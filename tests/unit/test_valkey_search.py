"""The semantic index on valkey-search, by its replies as version 1.2's source and tests have them; no server runs."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from redis.exceptions import ResponseError

from cache.semantic.index import Neighbour, RedisIndex

SECRET = b"s" * 32
INDEX_ID, TAG = "0" * 32, "ab" * 16
NO_FLOAT16 = (
    "Invalid field type for field `v`: Error parsing value for the parameter `TYPE` - Unknown argument `FLOAT16`"
)


def info_of(nested: bool, dimensions: int, documents: int) -> list[Any]:
    """FT.INFO's reply, in the form of 1.0, and in that of later versions with the vector's facts one level deeper."""
    facts: list[Any] = [b"data_type", b"FLOAT32", b"distance_metric", b"COSINE", b"capacity", 10240]
    vector = (
        [b"index", [*facts, b"dimensions", dimensions, b"algorithm", [b"name", b"FLAT", b"block_size", 1024]]]
        if nested
        else [b"algorithm", b"FLAT", *facts, b"dim", dimensions]
    )
    fields = [
        [b"identifier", b"ns", b"attribute", b"ns", b"type", b"TAG", b"SEPARATOR", b",", b"CASESENSITIVE", b"1"],
        [b"identifier", b"v", b"attribute", b"v", b"type", b"VECTOR", *vector],
    ]
    counts = [b"num_docs", documents, b"num_records", documents, b"hash_indexing_failures", b"0"]
    progress = [b"backfill_in_progress", b"0", b"backfill_complete_percent", b"1.000000", b"state", b"ready"]
    return [b"index_name", b"x", b"attributes", fields, *counts, *progress]


class ValkeySearch:
    """Keeps the documents of one index and answers as the module does; one client and its pipelines."""

    def __init__(self, nested: bool, has_room: bool = True) -> None:
        self.nested, self.has_room = nested, has_room
        self.dimensions = 0
        self.documents: dict[bytes, dict[str, bytes]] = {}
        self.queries: list[tuple[Any, ...]] = []
        self.waiting: list[Any] = []

    async def execute_command(self, *words: Any) -> Any:
        if words[0] == "FT.INFO":
            if not self.dimensions or words[1].endswith(b":hnsw"):
                raise ResponseError(f"Index with name '{words[1].decode()}' not found")
            return info_of(self.nested, self.dimensions, len(self.documents))
        assert words[0] == "FT.CREATE"
        if "FLOAT16" in words:
            raise ResponseError(NO_FLOAT16)
        if not self.has_room:
            raise ResponseError("Maximum number of indexes reached (10). Cannot create additional indexes.")
        self.dimensions = words[words.index("DIM") + 1]
        return b"OK"

    def pipeline(self, transaction: bool) -> "Pipeline":
        return Pipeline(self)


class Pipeline:
    def __init__(self, module: ValkeySearch) -> None:
        self.module, self.replies = module, list[Any]()

    async def __aenter__(self) -> "Pipeline":
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def hset(self, key: bytes, mapping: dict[str, bytes]) -> None:
        self.module.documents[key] = mapping
        self.replies.append(4)

    def expire(self, key: bytes, ttl_s: int) -> None:
        self.replies.append(True)

    def execute_command(self, *words: Any) -> None:
        self.module.queries.append(words)
        own = [(key, found) for key, found in self.module.documents.items() if f"{{{found['ns']}}}" in words[2]]
        blob = np.frombuffer(words[words.index("v") + 1], dtype="<f4")
        own.sort(key=lambda one: -float(np.frombuffer(one[1]["v"], dtype="<f4") @ blob))
        reply: list[Any] = [len(own)]
        for key, found in own:
            reply += [key, [b"v", found["v"], b"e", found["e"], b"m", found["m"]]]
        self.replies.append(reply)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        return self.replies


class Link:
    is_cluster = False
    write_timeout_s = 1.0

    def __init__(self, module: ValkeySearch) -> None:
        self.module = module

    async def call(self, command: Callable[[Any], Awaitable[Any]], timeout_s: float | None = None) -> Any:
        return await command(self.module)


def index_on(module: ValkeySearch) -> RedisIndex:
    return RedisIndex(Link(module), SECRET, INDEX_ID, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("nested", [False, True])
async def test_neighbours_are_found_in_an_index_of_float32(nested: bool) -> None:
    """FLOAT16 is tried first; the query has its tag in it, no SORTBY, and a blob of the index's own numbers."""
    module = ValkeySearch(nested)
    index = index_on(module)
    await index.check()
    assert index.kind == "flat"
    rows = np.eye(4, dtype=np.float32)[:2]
    near = [Neighbour(bytes([number]) * 16, row, row) for number, row in enumerate(rows)]
    await index.add([(TAG, one) for one in near], 60)
    found = await index.nearest(TAG, rows, 2)
    assert [[one.digest for one in each] for each in found] == [
        [near[0].digest, near[1].digest],
        [near[1].digest, near[0].digest],
    ]
    assert await index.nearest("cd" * 16, rows[:1], 2) == [[]]
    query = module.queries[0]
    assert re.fullmatch(r"\(@ns:\{[0-9a-f]{32}\}\)=>\[KNN 2 @v \$v AS d\]", query[2])
    assert "SORTBY" not in query
    assert query[query.index("PARAMS") + 1 : query.index("PARAMS") + 3] == (2, "v")


async def test_an_index_that_is_not_made_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """In the module's own words; the index is not usable, and nothing is raised."""
    index = index_on(ValkeySearch(nested=True, has_room=False))
    for _ in range(3):
        await index.check()
    assert not index.is_usable
    assert caplog.text.count("Maximum number of indexes reached") == 1
