"""Replies of a search module, or of a proxy before it, of another shape: no neighbours, and never an exception."""

from typing import Any

import numpy as np
import pytest

from cache.semantic.index import Neighbour, RedisIndex
from tests.unit.test_valkey_search import TAG, Pipeline, ValkeySearch, index_on

ROW = np.eye(4, dtype=np.float32)[:1]


async def index_with_a_document(monkeypatch: pytest.MonkeyPatch, reply: Any) -> RedisIndex:
    """An index that answers as `reply` makes of its own reply: [total, key, [field, value, ...]]."""
    index = index_on(ValkeySearch(nested=True))
    await index.check()
    await index.add([(TAG, Neighbour(bytes(16), ROW[0], ROW[0]))], 60)
    assert len((await index.nearest(TAG, ROW, 2))[0]) == 1
    execute = Pipeline.execute

    async def another(self: Pipeline, raise_on_error: bool = True) -> list[Any]:
        return [reply(one) for one in await execute(self, raise_on_error)]

    monkeypatch.setattr(Pipeline, "execute", another)
    return index


@pytest.mark.parametrize("value", [5, 0, [], [b"v"], 1.5, "v"])
@pytest.mark.parametrize("place", range(6))
async def test_fields_of_another_type(monkeypatch: pytest.MonkeyPatch, place: int, value: object) -> None:
    """A document with one name or value that is no string."""

    def reply(own: list[Any]) -> list[Any]:
        return [*own[:2], [*own[2][:place], value, *own[2][place + 1 :]]]

    index = await index_with_a_document(monkeypatch, reply)
    assert await index.nearest(TAG, ROW, 2) == [[]]


@pytest.mark.parametrize("reply", [5, None, b"OK", "OK", [], [1], [1, 2], [[1]], [1, b"k", b"v"], [1, [b"k"], [b"v"]]])
async def test_replies_of_another_type(monkeypatch: pytest.MonkeyPatch, reply: object) -> None:
    """What is no list of documents."""
    index = await index_with_a_document(monkeypatch, lambda _: reply)
    assert await index.nearest(TAG, ROW, 2) == [[]]


async def test_more_documents_than_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision over thousands would hold up every other request for minutes."""
    index = await index_with_a_document(monkeypatch, lambda own: own[:1] + own[1:] * 1000)
    (found,) = await index.nearest(TAG, ROW, 2)
    assert len(found) == 2
