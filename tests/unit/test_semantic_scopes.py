"""The semantic tier's scopes: which are forgotten when there are too many."""

from typing import Any

import numpy as np
import pytest

from cache.keys import Scope
from cache.probe import Probe
from cache.promise import Promise, SemanticMode
from cache.semantic import SemanticSettings, SemanticTier

PROMISE = Promise(SemanticMode.AUTO)


def keys(namespace: str) -> Scope:
    return Scope(b"s" * 32, "fingerprint", namespace, ("1-a", "1-b"))


def test_what_was_not_sent_is_not_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A violation found in one of many namespaces waits for the next exchange, however many others are asked for."""
    monkeypatch.setattr("cache.semantic.MAX_SCOPES", 3)
    nothing: Any = None
    probe = Probe(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32))
    tier = SemanticTier(nothing, nothing, nothing, probe, "probe", SemanticSettings(10, 60), lambda _: PROMISE)
    first = tier.scope(keys("first"))
    first.count_hits(1)
    others = [tier.scope(keys(f"other-{number}")) for number in range(10)]
    assert tier.scope(keys("first")) is first
    assert tier.scope(keys("other-9")) is others[-1]
    assert tier.scope(keys("other-0")) is not others[0]
    for one in others[-2:]:
        one.count_hits(1)
    for number in range(20, 30):
        tier.scope(keys(f"other-{number}")).count_hits(1)
    assert tier.scope(keys("first")) is not first
