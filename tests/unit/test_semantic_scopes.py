"""The semantic tier's scopes: which are forgotten when there are too many."""

from typing import Any

import pytest

from cache.governor import GovernorSettings
from cache.keys import Scope
from cache.promise import Promise, SemanticMode
from cache.scopes import Scopes

PROMISE = Promise(SemanticMode.AUTO)


def keys(namespace: str) -> Scope:
    return Scope(b"s" * 32, "fingerprint", namespace, ("1-a", "1-b"))


def test_what_was_not_sent_is_not_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A violation found in one of many namespaces waits for the next exchange, however many others are asked for."""
    monkeypatch.setattr("cache.scopes.MAX_SCOPES", 3)
    no_link: Any = None
    scopes = Scopes(no_link, GovernorSettings(), "probe", 2, lambda _: PROMISE)
    first = scopes.of(keys("first"))
    first.count_hits(1)
    others = [scopes.of(keys(f"other-{number}")) for number in range(10)]
    assert scopes.of(keys("first")) is first
    assert scopes.of(keys("other-9")) is others[-1]
    assert scopes.of(keys("other-0")) is not others[0]
    for one in others[-2:]:
        one.count_hits(1)
    for number in range(20, 30):
        scopes.of(keys(f"other-{number}")).count_hits(1)
    assert scopes.of(keys("first")) is not first


async def test_the_last_words_are_sent() -> None:
    """What waits for the next exchange when a gateway ends is told."""
    sent: list[int] = []

    class Log:
        async def append(self, tag: str, events: list[object]) -> str:
            sent.append(len(events))
            return "1-0"

    no_link: Any = None
    scopes = Scopes(no_link, GovernorSettings(), "probe", 2, lambda _: PROMISE)
    scopes._log = Log()  # type: ignore[assignment]
    for _ in range(300):
        scopes.of(keys("a")).count_hits(1)
    scopes.of(keys("b"))
    await scopes.tell_all()
    assert sent == [256, 44]
