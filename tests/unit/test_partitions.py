"""The partitions that a gateway holds: which are dropped when there are too many, and what is stored of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from cache.keys import Scope
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.events import Event
from cache.semantic.in_memory import InMemoryExchange
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.sync import Partitions, load, synchronise

POLICY = Policy(SemanticMode.AUTO)


def scope(namespace: str) -> Scope:
    return Scope(b"s" * 32, "fingerprint", namespace, ("1-a", "1-b"))


def test_what_was_not_sent_is_not_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A violation found in one of many namespaces waits for the next exchange, however many others are asked for."""
    monkeypatch.setattr("cache.semantic.sync.MAX_PARTITIONS", 3)
    partitions = Partitions(InMemoryExchange(), CostGateSettings(), "embedding", 2, lambda _: POLICY)
    first = partitions.of(scope("first"))
    first.record_hits(1)
    others = [partitions.of(scope(f"other-{number}")) for number in range(10)]
    assert partitions.of(scope("first")) is first
    assert partitions.of(scope("other-9")) is others[-1]
    assert partitions.of(scope("other-0")) is not others[0]
    for one in others[-2:]:
        one.record_hits(1)
    for number in range(20, 30):
        partitions.of(scope(f"other-{number}")).record_hits(1)
    assert partitions.of(scope("first")) is not first


async def test_the_final_flush_sends_what_waits() -> None:
    """What waits for the next exchange when a gateway ends is sent."""
    sent: list[int] = []

    class Counting(InMemoryExchange):
        async def append(self, tag: str, events: Sequence[Event]) -> str:
            sent.append(len(events))
            return await super().append(tag, events)

    partitions = Partitions(Counting(), CostGateSettings(), "embedding", 2, lambda _: POLICY)
    for _ in range(300):
        partitions.of(scope("a")).record_hits(1)
    partitions.of(scope("b"))
    await partitions.flush()
    assert sent == [256, 44]


async def test_a_matrix_that_redis_lost_is_stored_again() -> None:
    """Redis was emptied under running gateways: what their certificate was earned with is there for one that starts."""
    exchange = InMemoryExchange()
    running, started = (Partition(scope("a"), POLICY, CostGateSettings(), "embedding", 2) for _ in range(2))
    vectors = np.tile(np.array([[1, 0]], dtype=np.float32), (200, 1))
    running.sums.add(vectors, vectors)
    await synchronise(running, exchange)
    for kept in (exchange.events, exchange.saved, exchange.alignments):
        kept.clear()
    running.last_event = "0-0"  # as where Redis' stream begins anew
    await synchronise(running, exchange)
    await load(started, exchange)
    assert started.alignment is not None
    assert started.has_its_alignment
