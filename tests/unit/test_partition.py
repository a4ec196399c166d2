"""A scope's state: what a change of policy keeps and what it starts anew, alone and through the shared state."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cache.keys import Scope
from cache.metrics import REFUSED
from cache.semantic.alignment import FIRST_FIT
from cache.semantic.certifier import CertifierSettings
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.events import MAX_ORIGINS, Counted
from cache.semantic.in_memory import InMemoryExchange
from cache.semantic.lookup import Lookup
from cache.semantic.partition import NO_VERSION, Partition
from cache.semantic.policy import Policy, SemanticMode
from cache.semantic.predictor import Choice
from cache.semantic.sync import load, synchronise
from cache.semantic.threshold import ThresholdSettings
from tests.fake_time import Time

SCOPE = Scope(b"s" * 32, "fingerprint", "a", ("1-a", "1-b"))
POLICY = Policy(SemanticMode.ON)
DIMENSIONS = 4


class Log(InMemoryExchange):
    """An exchange that several gateways share; the first to synchronise is the writer."""

    def as_gateway(self, gateway: object) -> "Log":
        """What follows is asked by this gateway."""
        self.caller = gateway
        return self

    @property
    def state(self) -> dict[str, Any]:
        """The one stored state."""
        return self.saved[SCOPE.tag].state


def state_of(policy: Policy = POLICY) -> Partition:
    return Partition(SCOPE, policy, CostGateSettings(), "embedding", DIMENSIONS)


def with_fidelity(fidelity: float) -> Policy:
    return Policy(SemanticMode.ON, CertifierSettings(fidelity), ThresholdSettings(fidelity=fidelity))


def with_bounds(threshold: float, floor: float, ceiling: float) -> Policy:
    return replace(POLICY, threshold=ThresholdSettings(threshold, floor, ceiling))


def label(
    state: Partition, pair: int, z: float = 0.98, true: float = 0.99, hit: bool = False, probability: float = 1.0
) -> None:
    """Record one comparison as the tier does."""
    choice = Choice(0, z, z, 0.0, z)
    lookup = Lookup(
        np.zeros(2, np.float32), state.policy, b"n", choice, 0.92, state.version, probability, is_checked=hit
    )
    state.record_label(pair, lookup, true, hit)


async def sync(log: Log, *states: Partition) -> None:
    for state in states:
        await synchronise(state, log.as_gateway(state))


async def proven(log: Log, state: Partition) -> None:
    await sync(log, state)
    for pair in range(200):
        label(state, pair)
    await sync(log, state)
    assert state.certifier.phase == "serving"


async def test_another_fidelity_starts_certification_anew() -> None:
    """What was proven for one fidelity serves nothing at another, nor again when the first comes back."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_fidelity(0.95))
    assert state.certifier.tau is None
    await sync(log, state)
    assert state.certifier.tau is None
    label(state, 1000)
    await sync(log, state)
    assert state.certifier.certificate.tests[-1].labels == 1
    state.adopt(POLICY)
    await sync(log, state)
    assert state.certifier.phase == "testing"
    assert state.certifier.certificate.tests[-1].labels == 0


async def test_another_gateway_follows() -> None:
    """A reader under the new policy takes nothing of the old state; once the writer has it too, they agree."""
    log, writer, reader = Log(), state_of(), state_of()
    await proven(log, writer)
    await sync(log, reader)
    assert reader.certifier.phase == "serving"
    reader.adopt(with_fidelity(0.95))
    await sync(log, reader)
    assert reader.certifier.tau is None
    writer.adopt(with_fidelity(0.95))
    label(reader, 5000)
    await sync(log, reader, writer, reader)
    assert reader.certifier.to_state() == writer.certifier.to_state()
    assert reader.certifier.certificate.tests[-1].labels == 1


async def test_labels_decided_under_an_old_policy_certify_nothing() -> None:
    """A look-up of before the change teaches the label table, and not the new certificate; nor does it pause."""
    log, state = Log(), state_of()
    choice = Choice(0, 0.98, 0.98, 0.0, 0.98)
    lookup = Lookup(np.zeros(2, np.float32), POLICY, b"n", choice, 0.92)
    state.adopt(with_fidelity(0.95))
    state.record_label(1, lookup, 0.5, True)
    assert not state.is_paused
    await sync(log, state)
    assert state.certifier.certificate.tests[-1].labels == 0
    assert state.served["checked"] == 0
    assert state.table.labels == 1


async def test_the_label_table_outlives_a_change_of_policy() -> None:
    """It holds under any policy; the z of another static embedding means something else, and is not read."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_fidelity(0.95))
    await sync(log, state)
    assert state.table.labels == 200
    other = Partition(SCOPE, POLICY, CostGateSettings(), "other-embedding", DIMENSIONS)
    await load(other, log)
    assert other.table.labels == 0


async def test_weights_stand_for_lookups() -> None:
    """A checked hit counts for the unchecked ones, a miss and an empty look-up for themselves."""
    log, state = Log(), state_of()
    label(state, 1, hit=True, probability=0.1)
    label(state, 2, z=0.85, true=0.85, probability=0.1)
    state.record_empty(9)
    await sync(log, state)
    assert state.table.what_if(0.95, 0.92).reused == pytest.approx(10 / 20)


async def test_bounds_move_tau_and_keep_the_rest() -> None:
    """tau comes back within new bounds, in memory and through the shared state; the certificate stays."""
    log, state = Log(), state_of()
    await proven(log, state)
    state.adopt(with_bounds(0.92, 0.90, 0.92))
    label(state, 999)
    await sync(log, state)
    assert state.certifier.phase == "serving"
    state.threshold.tau = 0.915
    log.saved[SCOPE.tag] = replace(log.saved[SCOPE.tag], state=state.to_state())
    state.adopt(with_bounds(0.92, 0.92, 0.95))
    assert (state.threshold.tau, state.threshold.reason) == (0.92, "moved into its bounds")
    reader = state_of(with_bounds(0.92, 0.92, 0.95))
    await load(reader, log)
    assert reader.threshold.tau == 0.92
    assert reader.certifier.phase == "serving"


async def test_another_similarity_threshold_is_where_tau_starts() -> None:
    """tau goes to the new start, also in a gateway that only knows the state of before."""
    log, state = Log(), state_of()
    await proven(log, state)
    moved = with_bounds(0.95, 0.88, 0.98)
    state.adopt(moved)
    assert (state.threshold.tau, state.threshold.reason) == (0.95, "similarity_threshold was set")
    reader = state_of(moved)
    await load(reader, log)
    assert reader.threshold.tau == 0.95
    label(state, 999)
    await sync(log, state)
    again = state_of(moved)
    await load(again, log)
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
    before = state.to_state()
    log.events[SCOPE.tag].append({"i": POLICY.identity("embedding")} | event)
    await sync(log, state)
    assert state.to_state() == before


async def test_a_damaged_table_is_an_empty_one() -> None:
    """The certificate beside it is kept."""
    log, state = Log(), state_of()
    await proven(log, state)
    log.state["table"] = {"cells": "x"}
    reader = state_of()
    await load(reader, log)
    assert reader.table.labels == 0
    assert reader.certifier.phase == "serving"


async def test_a_state_of_endless_numbers_is_not_gone_by() -> None:
    """Nothing is served from it, and the writer goes on."""
    log, state = Log(), state_of()
    await proven(log, state)
    log.state["certifier"]["certificate"]["tests"][0][-1] = "inf"
    log.state["served"]["hits"] = float("inf")
    reader = state_of()
    await load(reader, log)
    assert reader.certifier.phase == "testing"


async def test_while_redis_takes_no_events_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is dropped, but for a violation that was served."""
    monkeypatch.setattr("cache.semantic.events.MAX_EVENTS_WAITING", 10)
    log, state = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO))
    for pair in range(20):
        state.record_hits(1)
        state.record_empty(1)
        label(state, pair)
        label(state, 100 + pair, hit=True)
    label(state, 200, true=0.5, hit=True)
    assert state.is_paused
    await sync(log, state)
    assert len(log.events[SCOPE.tag]) == 11
    assert not state.is_paused


async def test_an_old_state_is_taken_anew_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has not looked for long may have missed that the others stopped."""
    log, state = Log(), state_of()
    assert state.is_stale
    assert state.version == NO_VERSION
    await proven(log, state)
    assert not state.is_stale
    assert state.version == 0
    monkeypatch.setattr("cache.semantic.partition.STALE_AFTER_S", -1.0)
    assert state.is_stale


async def test_labels_of_another_map_certify_nothing() -> None:
    """Without the matrix that the state was learned with z is another one; its labels count in the table alone."""
    log, writer, reader = Log(), state_of(), state_of()
    observe(writer)
    await sync(log, writer)
    log.alignments[SCOPE.tag] = b"gone"
    await sync(log, reader)
    assert not reader.has_its_alignment
    for pair in range(5):
        label(reader, pair)
    await sync(log, reader, writer)
    assert writer.certifier.certificate.tests[-1].labels == 0
    assert writer.table.labels == 5


def observe(state: Partition, texts: int = FIRST_FIT, seed: int = 0) -> None:
    """Give a scope texts it has computed."""
    statics = np.random.default_rng(seed).normal(size=(texts, DIMENSIONS)).astype(np.float32)
    statics /= np.linalg.norm(statics, axis=1, keepdims=True)
    state.sums.add(statics, statics[:, ::-1])


async def test_the_writer_fits_the_map_and_all_go_by_it() -> None:
    """A reader has seen as many texts, and still uses the writer's matrix, to the bit."""
    log, writer, reader = Log(), state_of(), state_of()
    observe(writer)
    observe(reader, seed=1)
    await sync(log, writer, reader)
    assert writer.alignment is not None
    assert reader.alignment is not None
    assert np.array_equal(writer.alignment.matrix, reader.alignment.matrix)
    assert reader.has_its_alignment
    restarted = state_of()
    await load(restarted, log)
    assert restarted.alignment is not None
    assert (restarted.alignment.id, restarted.sums.texts) == (writer.alignment.id, FIRST_FIT)


async def test_a_state_whose_map_is_gone_serves_nothing_and_starts_anew() -> None:
    """What was proven with a matrix does not hold without it: the reader waits, the next writer tests anew."""
    log, writer = Log(), state_of()
    observe(writer)
    await proven(log, writer)
    log.alignments[SCOPE.tag] = b"damaged"
    reader = state_of()
    await sync(log, reader)
    assert reader.certifier.phase == "serving"
    assert not reader.has_its_alignment
    log.writers[SCOPE.tag] = reader
    label(reader, 5000)
    await sync(log, reader)
    assert reader.has_its_alignment
    assert reader.certifier.phase == "testing"
    assert reader.certifier.version == 1
    await sync(log, writer)
    assert writer.certifier.tau is None


async def test_a_change_of_policy_keeps_the_matrix() -> None:
    """The matrix holds under any policy."""
    log, state = Log(), state_of()
    observe(state)
    await sync(log, state)
    state.adopt(with_fidelity(0.95))
    await sync(log, state)
    assert state.alignment is not None
    assert state.has_its_alignment


async def test_another_mode_means_another_score() -> None:
    """`on` doubles the margin, so its labels prove nothing for `auto`; the matrix they share."""
    log, state = Log(), state_of()
    observe(state)
    await proven(log, state)
    auto = replace(POLICY, mode=SemanticMode.AUTO)
    for one in (state, reader := state_of(auto)):
        one.adopt(auto)
        await load(one, log)
        assert one.certifier.tau is None
        assert one.table.labels == 0
    assert reader.alignment is not None
    assert reader.has_its_alignment


def hit(state: Partition, ticket: int, probability: float = 1.0, is_checked: bool = True) -> Lookup:
    """A look-up whose candidate clears the level in force."""
    choice = Choice(0, 0.99, 0.99, 0.0, 0.99)
    return Lookup(
        np.zeros(2, np.float32),
        state.policy,
        b"n",
        choice,
        0.92,
        state.certifier.version,
        probability,
        is_checked=is_checked,
        ticket=ticket,
    )


async def test_no_more_hits_are_pending_than_the_error_budget_covers() -> None:
    """However many texts are decided at once; a label that comes makes room for the next."""
    log, state = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert state.certifier.budget is not None
    assert state.certifier.budget.balance == pytest.approx(2.0)
    hits = [hit(state, ticket) for ticket in range(64)]
    admitted = [one for one in hits if state.admits(one)]
    assert len(admitted) == 2
    state.pending.settle(admitted[0].ticket)
    assert [state.admits(hit(state, ticket)) for ticket in (100, 101)] == [True, False]
    rare = hit(state_of(replace(POLICY, mode=SemanticMode.AUTO)), 200)
    assert not state_of(replace(POLICY, mode=SemanticMode.AUTO)).admits(rare)  # nothing is proven there


async def test_an_expensive_check_is_always_admitted_alone() -> None:
    """One hit may be pending even where its check stands for more than the balance; unchecked ones too."""
    log, state = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert state.admits(hit(state, 1, probability=0.1, is_checked=False))
    assert state.admits(hit(state, 2, probability=0.1))
    assert not state.admits(hit(state, 3, probability=0.1, is_checked=False))


async def test_a_label_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check may be dropped; its place is free again after a while."""
    log, state = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO))
    await proven(log, state)
    assert [state.admits(hit(state, ticket)) for ticket in range(3)] == [True, True, False]
    monkeypatch.setattr("cache.semantic.verification.EXPIRES_AFTER_S", -1.0)
    assert state.admits(hit(state, 4))


async def test_a_check_that_waits_for_the_engine_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the engine is away, no more hits are served unchecked than the error budget covers."""
    log, state, time = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO)), Time()
    await proven(log, state)
    monkeypatch.setattr("cache.semantic.partition.time.monotonic", time.clock)
    waiting = [one for one in (hit(state, ticket) for ticket in range(3)) if state.admits(one)]
    for _ in range(100):
        time.now += 60
        for one in waiting:
            state.pending.keep(one.ticket)
        assert not state.admits(hit(state, 10))
    state.pending.settle(waiting[0].ticket)
    assert state.admits(hit(state, 11))
    state.pending.keep(waiting[0].ticket)
    assert not state.admits(hit(state, 12))


async def test_the_pause_ends_under_steady_load() -> None:
    """More labels a moment than one message holds: all are sent, and the pause ends once the violation is counted."""
    log, state = Log(), state_of(replace(POLICY, mode=SemanticMode.AUTO))
    await proven(log, state)
    for pair in range(1000, 2000):
        label(state, pair)
    label(state, 2000, true=0.5, hit=True)
    assert state.is_paused
    for pair in range(3000, 4000):
        label(state, pair)
    await sync(log, state)
    assert not state.is_paused
    assert state.served["violations"] == 1
    assert len(log.events[SCOPE.tag]) == 200 + 2001


async def test_gateways_share_the_error_budget() -> None:
    """Each has its part of it; where the part does not cover one check, the writer alone serves."""
    log, policy = Log(), replace(POLICY, mode=SemanticMode.AUTO)
    writer, reader = state_of(policy), state_of(policy)
    await proven(log, writer)
    assert not reader.admits(hit(reader, 1))  # it does not know of the others yet
    log.gateways = 2
    await sync(log, writer, reader)
    for one in (writer, reader):
        assert [one.admits(hit(one, ticket)) for ticket in (10, 11)] == [True, False]
        one.pending.settle(hit(one, 10).ticket)
    log.gateways = 3
    await sync(log, writer, reader)
    assert not reader.admits(hit(reader, 20))
    assert [writer.admits(hit(writer, ticket)) for ticket in (30, 31, 32)] == [True, True, False]


async def test_no_event_counts_twice() -> None:
    """Whoever repeats what a gateway has sent proves nothing with it, also where the stream begins anew."""
    log, state, another = Log(), state_of(), state_of()
    await sync(log, state, another)
    for pair in range(20):
        label(state, pair)
    state.record_hits(3)
    await sync(log, state)
    before = state.to_state()
    log.events[SCOPE.tag] += log.events[SCOPE.tag] * 20
    await sync(log, state)
    assert state.to_state() == before
    label(another, 100)
    await sync(log, another, state)
    assert state.certifier.certificate.tests[-1].labels == 21


def test_of_many_origins_the_newest_are_kept_and_none_is_repeated() -> None:
    """What one that was left out sent before does not count again; what it sends later does."""
    counted = Counted()
    assert all(counted.is_new({"o": f"{number}", "t": number}) for number in range(1, 3 * MAX_ORIGINS))
    counted = Counted.from_state(counted.to_state())
    assert not any(counted.is_new({"o": f"{number}", "t": number}) for number in range(1, 3 * MAX_ORIGINS))
    assert counted.is_new({"o": "1", "t": 1000})
    assert not any(counted.is_new(event) for event in ({}, {"o": 1, "t": 2000}, {"o": "1", "t": "x"}, {"o": "1"}))


async def test_an_older_state_is_not_gone_by() -> None:
    """Who puts one back gives nobody its error budget again: the writer stores the newest anew, and nothing is lost."""
    log, auto = Log(), replace(POLICY, mode=SemanticMode.AUTO)
    writer, reader = state_of(auto), state_of(auto)
    await proven(log, writer)
    older = log.saved[SCOPE.tag]
    label(writer, 5000, true=0.5, hit=True)
    label(writer, 5001, true=0.5, hit=True)
    await sync(log, writer, reader)
    assert reader.certifier.phase == "testing"
    log.saved[SCOPE.tag] = older
    refused = REFUSED.labels("state", "older")._value.get()
    await sync(log, reader)
    assert reader.certifier.phase == "testing"
    assert REFUSED.labels("state", "older")._value.get() == refused + 1
    newest = writer.to_state()
    await sync(log, writer, reader)
    assert log.state == newest
    assert reader.certifier.to_state() == writer.certifier.to_state()


async def test_a_state_saved_under_a_clock_put_back_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says, what is saved later is gone by."""
    log, writer, reader = Log(), state_of(), state_of()
    await proven(log, writer)
    await sync(log, reader)
    monkeypatch.setattr("cache.semantic.sync.time.time_ns", lambda: 10**15)
    label(writer, 5000)
    await sync(log, writer, reader)
    assert reader.certifier.to_state() == writer.certifier.to_state()
    assert reader.certifier.certificate.tests[-1].labels == 201


async def test_mode_on_has_no_more_hits_pending_than_its_balance_covers() -> None:
    """However many texts are decided at once; clean hits earn room for more, violations take it, one may always be."""
    log, state = Log(), state_of()
    await sync(log, state)
    assert sum(state.admits(hit(state, ticket)) for ticket in range(1000)) == 2
    state.pending.settle(0)
    state.pending.settle(1)
    state.record_hits(400)
    await sync(log, state)
    assert sum(state.admits(hit(state, ticket)) for ticket in range(1000)) == 8
    for ticket in range(1000):
        state.pending.settle(ticket)
    for pair in range(20):
        label(state, pair, true=0.5, hit=True)
    await sync(log, state)
    assert state.balance_on.balance == 0
    assert [state.admits(hit(state, ticket)) for ticket in (1, 2)] == [True, False]
    again = state_of()
    await load(again, log)
    assert again.balance_on == state.balance_on


async def test_in_mode_on_every_gateway_serves() -> None:
    """Each has its part of the balance, and at least one hit at a time."""
    log = Log()
    log.gateways = 4
    states = [state_of() for _ in range(4)]
    await sync(log, *states)
    for one in states:
        assert [one.admits(hit(one, ticket)) for ticket in range(3)] == [True, False, False]
