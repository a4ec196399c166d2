"""A scope's state: what a change of promise keeps and what it starts anew, alone and through the shared state."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cache.governor import GovernorSettings
from cache.keys import Scope
from cache.lookup import Lookup
from cache.promise import Promise, SemanticMode
from cache.reuse import ReuseSettings
from cache.reuse_log import Saved
from cache.reuse_state import NO_VERSION, ScopeState
from cache.threshold import Choice, ThresholdSettings
from cache.trend import FIRST_FIT
from tests.fake_time import Time

KEYS = Scope(b"s" * 32, "fingerprint", "a", ("1-a", "1-b"))
PROMISE = Promise(SemanticMode.ON)
DIMENSIONS = 4


class Log:
    """A ReuseLog in memory, of which `writer` holds the lease."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.saved: Saved | None = None
        self.trend = b""
        self.gateways = 1
        self.writer: object = None

    def of(self, gateway: object) -> "Log":
        self.writer = self.writer or gateway
        self.asker = gateway
        return self

    async def append(self, tag: str, events: Sequence[dict[str, Any]]) -> str:
        self.events += [json.loads(json.dumps(event)) for event in events]
        return f"{len(self.events)}-0"

    async def load(self, tag: str) -> Saved | None:
        return self.saved

    async def take_lease(self, tag: str) -> tuple[bool, int]:
        return self.asker is self.writer, self.gateways

    async def events_after(self, tag: str, last_event: str) -> list[tuple[str, dict[str, Any]]]:
        start = int(last_event.split("-", maxsplit=1)[0])
        return [(f"{start + n + 1}-0", event) for n, event in enumerate(self.events[start:])]

    async def load_trend(self, tag: str) -> bytes:
        return self.trend

    async def save(self, tag: str, saved: Saved, trend: bytes = b"") -> bool:
        self.saved = Saved(saved.last_event, json.loads(json.dumps(saved.state)))
        self.trend = trend or self.trend
        return True


def state_of(promise: Promise = PROMISE) -> ScopeState:
    return ScopeState(KEYS, promise, GovernorSettings(), "probe", DIMENSIONS)


def with_fidelity(fidelity: float) -> Promise:
    return Promise(SemanticMode.ON, ReuseSettings(fidelity), ThresholdSettings(fidelity=fidelity))


def with_bounds(threshold: float, floor: float, ceiling: float) -> Promise:
    return replace(PROMISE, threshold=ThresholdSettings(threshold, floor, ceiling))


def label(
    state: ScopeState, pair: int, z: float = 0.98, true: float = 0.99, hit: bool = False, probability: float = 1.0
) -> None:
    """Record one comparison as the tier does."""
    choice = Choice(0, z, z, 0.0, z)
    lookup = Lookup(
        np.zeros(2, np.float32), state.promise, b"n", choice, 0.92, state.version, probability, is_checked=hit
    )
    state.add_label(pair, lookup, true, hit, true < state.promise.fidelity)


async def sync(log: Log, *states: ScopeState) -> None:
    for state in states:
        await state.sync(log.of(state))  # type: ignore[arg-type]


async def proven(log: Log, state: ScopeState) -> None:
    await sync(log, state)
    for pair in range(200):
        label(state, pair)
    await sync(log, state)
    assert state.reuse.phase == "serving"


async def test_another_fidelity_starts_certification_anew() -> None:
    """What was proven for one fidelity serves nothing at another, nor again when the first comes back."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_fidelity(0.95))
    assert state.reuse.tau is None
    await sync(log, state)
    assert state.reuse.tau is None
    label(state, 1000)
    await sync(log, state)
    assert state.reuse.certificate.tests[-1].labels == 1
    state.adopt(PROMISE)
    await sync(log, state)
    assert state.reuse.phase == "testing"
    assert state.reuse.certificate.tests[-1].labels == 0


async def test_another_gateway_follows() -> None:
    """A reader under the new promise takes nothing of the old state; once the writer has it too, they agree."""
    log, writer, reader = Log(), state_of(), state_of()
    await proven(log, writer)
    await sync(log, reader)
    assert reader.reuse.phase == "serving"
    reader.adopt(with_fidelity(0.95))
    await sync(log, reader)
    assert reader.reuse.tau is None
    writer.adopt(with_fidelity(0.95))
    label(reader, 5000)
    await sync(log, reader, writer, reader)
    assert reader.reuse.to_state() == writer.reuse.to_state()
    assert reader.reuse.certificate.tests[-1].labels == 1


async def test_labels_decided_under_an_old_promise_certify_nothing() -> None:
    """A look-up of before the change teaches the label table, and not the new certificate; nor does it pause."""
    log, state = Log(), state_of()
    choice = Choice(0, 0.98, 0.98, 0.0, 0.98)
    lookup = Lookup(np.zeros(2, np.float32), PROMISE, b"n", choice, 0.92)
    state.adopt(with_fidelity(0.95))
    state.add_label(1, lookup, 0.5, True, True)
    assert not state.is_paused
    await sync(log, state)
    assert state.reuse.certificate.tests[-1].labels == 0
    assert state.served["checked"] == 0
    assert state.table.labels == 1


async def test_the_label_table_outlives_a_change_of_promise() -> None:
    """It says what is true, whatever is asked for; another probe's z means something else, and is not read."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_fidelity(0.95))
    await sync(log, state)
    assert state.table.labels == 200
    other = ScopeState(KEYS, PROMISE, GovernorSettings(), "other-probe", DIMENSIONS)
    await other.load(log)  # type: ignore[arg-type]
    assert other.table.labels == 0


async def test_weights_stand_for_lookups() -> None:
    """A checked hit counts for the unchecked ones, a miss and an empty look-up for themselves."""
    log, state = Log(), state_of()
    label(state, 1, hit=True, probability=0.1)
    label(state, 2, z=0.85, true=0.85, probability=0.1)
    state.count_empty(9)
    await sync(log, state)
    assert state.table.what_if(0.95, 0.92).reused == pytest.approx(10 / 20)


async def test_bounds_move_tau_and_keep_the_rest() -> None:
    """tau comes back within new bounds, in memory and through the shared state; the certificate stays."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_bounds(0.92, 0.90, 0.92))
    label(state, 999)
    await sync(log, state)
    assert state.reuse.phase == "serving"
    state.threshold.tau = 0.915
    log.saved = Saved(log.saved.last_event, state._to_state()) if log.saved else None
    state.adopt(with_bounds(0.92, 0.92, 0.95))
    assert (state.threshold.tau, state.threshold.reason) == (0.92, "moved into its bounds")
    reader = state_of(with_bounds(0.92, 0.92, 0.95))
    await reader.load(log)  # type: ignore[arg-type]
    assert reader.threshold.tau == 0.92
    assert reader.reuse.phase == "serving"


async def test_another_similarity_threshold_is_where_tau_starts() -> None:
    """tau goes to the new start, also in a gateway that only knows the state of before."""
    log, state = Log(), state_of()
    await proven(log, state)
    moved = with_bounds(0.95, 0.88, 0.98)
    state.adopt(moved)
    assert (state.threshold.tau, state.threshold.reason) == (0.95, "similarity_threshold was set")
    reader = state_of(moved)
    await reader.load(log)  # type: ignore[arg-type]
    assert reader.threshold.tau == 0.95
    label(state, 999)
    await sync(log, state)
    again = state_of(moved)
    await again.load(log)  # type: ignore[arg-type]
    assert again.threshold.reason == "similarity_threshold was set"


@pytest.mark.parametrize(
    "event",
    [
        {"k": "label"},
        {"k": "label", "p": 1, "z": None, "s": 0.9, "v": 0, "h": True, "q": 1.0},
        {"k": "label", "p": 1, "z": 0.9, "s": 0.9, "v": 0, "h": True, "q": 0.0},
        {"k": "label", "p": 1, "z": 0.9, "s": 0.9, "v": 0, "h": True, "q": 2.0},
        {"k": "hits", "n": "many"},
        {"k": "empty"},
        {"k": "hits", "n": -5},
        {"k": "label", "p": 1, "z": "inf", "s": 0.9, "v": 0, "h": True, "q": 1.0},
        {"k": "label", "p": 1, "z": 0.9, "s": "-inf", "v": 0, "h": True, "q": 1.0},
    ],
)
async def test_damaged_events_are_skipped(event: dict[str, Any]) -> None:
    """Nothing in the stream stops the writer or moves what it holds."""
    log, state = Log(), state_of()
    before = state._to_state()
    log.events.append({"i": PROMISE.identity("probe")} | event)
    await sync(log, state)
    assert state._to_state() == before


async def test_a_damaged_table_is_an_empty_one() -> None:
    """The certificate beside it is kept."""
    log, state = Log(), state_of()
    await proven(log, state)
    assert log.saved is not None
    log.saved.state["table"] = {"cells": "x"}
    reader = state_of()
    await reader.load(log)  # type: ignore[arg-type]
    assert reader.table.labels == 0
    assert reader.reuse.phase == "serving"


async def test_a_state_of_endless_numbers_is_not_gone_by() -> None:
    """Nothing is served from it, and the writer goes on."""
    log, state = Log(), state_of()
    await proven(log, state)
    assert log.saved is not None
    log.saved.state["reuse"]["certificate"]["tests"][0][-1] = "inf"
    log.saved.state["served"]["hits"] = float("inf")
    reader = state_of()
    await reader.load(log)  # type: ignore[arg-type]
    assert reader.reuse.phase == "testing"


async def test_while_redis_takes_no_events_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is dropped, but for a violation that was served."""
    monkeypatch.setattr("cache.reuse_state.MAX_EVENTS_WAITING", 10)
    log, state = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO))
    for pair in range(20):
        state.count_hits(1)
        state.count_empty(1)
        label(state, pair)
        label(state, 100 + pair, hit=True)
    label(state, 200, true=0.5, hit=True)
    assert state.is_paused
    await sync(log, state)
    assert len(log.events) == 11
    assert not state.is_paused


async def test_an_old_state_is_taken_anew_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has not looked for long may have missed that the others stopped."""
    log, state = Log(), state_of()
    assert state.is_stale
    assert state.version == NO_VERSION
    await proven(log, state)
    assert not state.is_stale
    assert state.version == 0
    monkeypatch.setattr("cache.reuse_state.STALE_AFTER_S", -1.0)
    assert state.is_stale


async def test_labels_of_another_map_certify_nothing() -> None:
    """A gateway without the map that the state was learned with makes another z; its labels teach the table alone."""
    log, writer, reader = Log(), state_of(), state_of()
    teach(writer)
    await sync(log, writer)
    log.trend = b"gone"
    await sync(log, reader)
    assert not reader.has_its_trend
    for pair in range(5):
        label(reader, pair)
    await sync(log, reader, writer)
    assert writer.reuse.certificate.tests[-1].labels == 0
    assert writer.table.labels == 5


def teach(state: ScopeState, texts: int = FIRST_FIT, seed: int = 0) -> None:
    """Give a scope texts it has computed."""
    probes = np.random.default_rng(seed).normal(size=(texts, DIMENSIONS)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    state.learner.add(probes, probes[:, ::-1])


async def test_the_writer_fits_the_map_and_all_go_by_it() -> None:
    """A reader has seen as many texts, and still goes by the writer's map, to the bit."""
    log, writer, reader = Log(), state_of(), state_of()
    teach(writer)
    teach(reader, seed=1)
    await sync(log, writer, reader)
    assert writer.trend is not None
    assert reader.trend is not None
    assert np.array_equal(writer.trend.matrix, reader.trend.matrix)
    assert reader.has_its_trend
    restarted = state_of()
    await restarted.load(log)  # type: ignore[arg-type]
    assert restarted.trend is not None
    assert (restarted.trend.id, restarted.learner.texts) == (writer.trend.id, FIRST_FIT)


async def test_a_state_whose_map_is_gone_serves_nothing_and_starts_anew() -> None:
    """What was proven with a map says nothing without it: the reader waits, the next writer tests anew."""
    log, writer = Log(), state_of()
    teach(writer)
    await proven(log, writer)
    log.trend = b"damaged"
    reader = state_of()
    await sync(log, reader)
    assert reader.reuse.phase == "serving"
    assert not reader.has_its_trend
    log.writer = reader
    label(reader, 5000)
    await sync(log, reader)
    assert reader.has_its_trend
    assert reader.reuse.phase == "testing"
    assert reader.reuse.version == 1
    await sync(log, writer)
    assert writer.reuse.tau is None


async def test_a_change_of_promise_keeps_the_map() -> None:
    """The map says what is true, whatever is asked for."""
    log, state = Log(), state_of()
    teach(state)
    await sync(log, state)
    state.adopt(with_fidelity(0.95))
    await sync(log, state)
    assert state.trend is not None
    assert state.has_its_trend


async def test_another_mode_means_another_score() -> None:
    """`on` doubles the margin, so what its labels say proves nothing for `auto`; the map they share."""
    log, state = Log(), state_of()
    teach(state)
    await proven(log, state)
    auto = replace(PROMISE, mode=SemanticMode.AUTO)
    for one in (state, reader := state_of(auto)):
        one.adopt(auto)
        await one.load(log)  # type: ignore[arg-type]
        assert one.reuse.tau is None
        assert one.table.labels == 0
    assert reader.trend is not None
    assert reader.has_its_trend


def hit(state: ScopeState, ticket: int, probability: float = 1.0, is_checked: bool = True) -> Lookup:
    """A look-up whose candidate clears the level in force."""
    choice = Choice(0, 0.99, 0.99, 0.0, 0.99)
    return Lookup(
        np.zeros(2, np.float32),
        state.promise,
        b"n",
        choice,
        0.92,
        state.reuse.version,
        probability,
        is_checked=is_checked,
        ticket=ticket,
    )


async def test_no_more_hits_are_on_their_way_than_the_purse_could_pay_for() -> None:
    """However many texts are decided at once; a label that comes makes room for the next."""
    log, state = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert state.reuse.budget is not None
    assert state.reuse.budget.balance == pytest.approx(2.0)
    hits = [hit(state, ticket) for ticket in range(64)]
    admitted = [one for one in hits if state.admits(one)]
    assert len(admitted) == 2
    state.on_the_way.arrived(admitted[0].ticket)
    assert [state.admits(hit(state, ticket)) for ticket in (100, 101)] == [True, False]
    rare = hit(state_of(replace(PROMISE, mode=SemanticMode.AUTO)), 200)
    assert not state_of(replace(PROMISE, mode=SemanticMode.AUTO)).admits(rare)  # nothing is proven there


async def test_a_dear_check_is_always_admitted_alone() -> None:
    """One hit may be on its way even where its check stands for more than the purse holds; unchecked ones too."""
    log, state = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert state.admits(hit(state, 1, probability=0.1, is_checked=False))
    assert state.admits(hit(state, 2, probability=0.1))
    assert not state.admits(hit(state, 3, probability=0.1, is_checked=False))


async def test_a_label_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check may be dropped; its place is free again after a while."""
    log, state = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert [state.admits(hit(state, ticket)) for ticket in range(3)] == [True, True, False]
    monkeypatch.setattr("cache.on_the_way.LOST_AFTER_S", -1.0)
    assert state.admits(hit(state, 4))


async def test_a_check_that_waits_for_the_engine_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the engine is away, no more hits are served unchecked than the purse could pay for."""
    log, state, time = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO)), Time()
    await proven(log, state)
    monkeypatch.setattr("cache.reuse_state.time.monotonic", time.clock)
    waiting = [one for one in (hit(state, ticket) for ticket in range(3)) if state.admits(one)]
    for _ in range(100):
        time.now += 60
        for one in waiting:
            state.on_the_way.still_waits(one.ticket)
        assert not state.admits(hit(state, 10))
    state.on_the_way.arrived(waiting[0].ticket)
    assert state.admits(hit(state, 11))
    state.on_the_way.still_waits(waiting[0].ticket)
    assert not state.admits(hit(state, 12))


async def test_the_pause_ends_under_steady_load() -> None:
    """More labels a moment than one message holds: all are sent, and the pause ends once the violation is counted."""
    log, state = Log(), state_of(replace(PROMISE, mode=SemanticMode.AUTO))
    await proven(log, state)
    for pair in range(1000, 2000):
        label(state, pair)
    label(state, 2000, true=0.5, hit=True)
    assert state.is_paused
    for pair in range(3000, 4000):
        label(state, pair)
    await sync(log, state)
    assert not state.is_paused
    assert state.served_summary()["violations"] == 1
    assert len(log.events) == 200 + 2001


async def test_gateways_share_the_purse() -> None:
    """Each has its part of it; where the part would not pay for one check, the writer alone serves."""
    log, promise = Log(), replace(PROMISE, mode=SemanticMode.AUTO)
    writer, reader = state_of(promise), state_of(promise)
    await proven(log, writer)
    assert not reader.admits(hit(reader, 1))  # it does not know of the others yet
    log.gateways = 2
    await sync(log, writer, reader)
    for one in (writer, reader):
        assert [one.admits(hit(one, ticket)) for ticket in (10, 11)] == [True, False]
        one.on_the_way.arrived(hit(one, 10).ticket)
    log.gateways = 3
    await sync(log, writer, reader)
    assert not reader.admits(hit(reader, 20))
    assert [writer.admits(hit(writer, ticket)) for ticket in (30, 31, 32)] == [True, True, False]
