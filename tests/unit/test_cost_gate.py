"""The cost gate: rationed while it explores, on where it pays, off where it loses, and able to notice a change."""

import pytest

from cache.semantic.cost_gate import CostGate, CostGateSettings, CostGateState


def learned(
    engine_s: float, hit_every: int, lookups: int = 500, may_serve: bool = True, is_near: bool = True
) -> CostGate:
    cost_gate = CostGate(CostGateSettings())
    for index in range(lookups):
        cost_gate.record_engine(engine_s)
        cost_gate.record_lookup(0.0005, index % hit_every == 0, 0.1, may_serve, is_near)
    return cost_gate


def test_exploration_costs_at_most_the_overhead() -> None:
    """With a 1 ms engine and a 0.5 ms look-up, 2 % of overhead buy look-ups for 4 % of the requests."""
    cost_gate = learned(0.001, 10, may_serve=False)
    assert cost_gate.state is CostGateState.EXPLORING
    assert cost_gate.lookup_share == pytest.approx(0.04)


def test_hopeless_traffic_costs_a_tenth_of_that() -> None:
    """Where no candidate is ever near, exploration costs 0.2 %."""
    assert learned(0.001, 10, may_serve=False, is_near=False).lookup_share == pytest.approx(0.004)


def test_an_expensive_engine_is_explored_at_once() -> None:
    """Where look-ups cost nothing beside the engine, every request is looked up."""
    assert learned(0.3, 10, may_serve=False).lookup_share == 1.0


def test_it_pays() -> None:
    """A third of hits on a 20 ms engine gains milliseconds a look-up."""
    cost_gate = learned(0.02, 3)
    assert cost_gate.state is CostGateState.PAYS
    assert cost_gate.lookup_share == 1.0
    assert "gains" in cost_gate.reason


def test_it_switches_off_where_it_loses() -> None:
    """A tenth of hits on a 1 ms engine loses; a trickle stays."""
    cost_gate = learned(0.001, 10)
    assert cost_gate.state is CostGateState.RATIONED
    assert 0 < cost_gate.lookup_share < 0.1
    assert "loses" in cost_gate.reason


def test_it_notices_a_change() -> None:
    """When hits become frequent enough the trickle finds out."""
    cost_gate = learned(0.001, 10)
    for _ in range(2000):
        cost_gate.record_lookup(0.0005, True, 0.1, True)
    assert cost_gate.state is CostGateState.PAYS


def test_the_dead_band_prevents_flapping() -> None:
    """At a gain of about nothing the state stays what it was."""
    cost_gate = learned(0.001, 3)
    settings, before = cost_gate.settings, cost_gate.state
    cost_gate.hit_share = cost_gate.lookup_s * (1 + settings.dead_band / 2) / ((1 - 0.1) * cost_gate.engine_cost_s)
    cost_gate._switch(may_serve=True)
    assert cost_gate.state is before


def test_a_configured_price_counts_instead_of_the_measured_cost() -> None:
    """A remote API's price is what a hit saves."""
    cost_gate = CostGate(CostGateSettings(engine_price_s=0.3))
    cost_gate.record_engine(0.001)
    assert cost_gate.engine_cost_s == 0.3


def test_index_writes_are_rationed_too() -> None:
    """Writes that cost a tenth of the engine's time are cut to a twentieth of the texts at 0.5 % for them."""
    cost_gate = learned(0.001, 10, may_serve=False)
    cost_gate.record_index_write(0.0001)
    assert cost_gate.index_share == pytest.approx(0.05)


def test_nothing_certified_means_exploring_again() -> None:
    """When the breaker has opened the cost gate goes back to exploring."""
    cost_gate = learned(0.02, 3)
    cost_gate.record_lookup(0.0005, False, 1.0, False)
    assert cost_gate.state is CostGateState.EXPLORING
