"""Verification of semantic hits when the engine fails, is away, or serves another model."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gateway import verifier as verifier_module
from gateway.errors import EngineAway, EngineFailed, GatewayError, ModelChanged
from gateway.verifier import Verification, Verifier

MODEL: Any = SimpleNamespace()


class Engine:
    """Fails for some texts, and raises what is queued first."""

    def __init__(self, bad: set[str] = frozenset(), first: list[Exception] | None = None) -> None:  # type: ignore[assignment]
        self.bad, self.first, self.calls = bad, first or [], 0

    async def vectors(self, _: object, texts: list[str], *__: object) -> np.ndarray:
        self.calls += 1
        if self.first:
            raise self.first.pop(0)
        if self.bad & set(texts):
            raise EngineFailed("cannot compute this")
        return np.ones((len(texts), 2), np.float32)


class Tier:
    """Records what is observed and what is kept pending."""

    def __init__(self) -> None:
        self.observed: list[str] = []
        self.kept = 0

    def observe(self, _: object, observations: list[Any]) -> None:
        self.observed += [one.text for one in observations]

    def keep_pending(self, *_: object) -> None:
        self.kept += 1


async def verify(engine: Engine, texts: list[str]) -> Tier:
    """The tier, after all of `texts` were submitted and the queue is empty."""
    tier, verifier = Tier(), Verifier(engine, "float32", 100)  # type: ignore[arg-type]
    for text in texts:
        verifier.submit(Verification(MODEL, tier, None, text, text, None))  # type: ignore[arg-type]
    loop = asyncio.create_task(verifier.run())
    async with asyncio.timeout(120):
        while verifier._queue or not engine.calls:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    return tier


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries at once."""
    monkeypatch.setattr(verifier_module, "RETRY_S", 0.0)


async def test_a_text_that_the_engine_fails_on_does_not_hold_up_the_others() -> None:
    """It is tried with the others, then alone, then dropped."""
    tier = await verify(Engine(bad={"b"}), ["a", "b", "c"])
    assert tier.observed == ["a", "c"]


async def test_an_engine_that_is_away_is_waited_for() -> None:
    """However often; the hits stay pending meanwhile."""
    away: list[Exception] = [EngineAway("away", retry_after_s=0) for _ in range(20)]
    tier = await verify(Engine(first=away), ["a", "b"])
    assert tier.observed == ["a", "b"]
    assert tier.kept == 40


@pytest.mark.parametrize("error", [ModelChanged(), GatewayError("no")])
async def test_what_can_never_be_computed_is_dropped(error: Exception) -> None:
    """Another model, or a refusal; what follows is verified."""
    if isinstance(error, GatewayError):
        error.status = 400
    tier = await verify(Engine(first=[error]), ["a"])
    assert tier.observed == []
