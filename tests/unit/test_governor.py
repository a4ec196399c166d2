"""The governor: rationed while it learns, on where it pays, off where it loses, and able to notice a change."""

import json

import pytest

from cache.governor import Governor, GovernorSettings, GovernorState


def learned(
    engine_s: float, hit_every: int, lookups: int = 500, may_serve: bool = True, is_near: bool = True
) -> Governor:
    governor = Governor(GovernorSettings())
    for index in range(lookups):
        governor.saw_engine(engine_s)
        governor.saw_lookup(0.0005, index % hit_every == 0, 0.1, may_serve, is_near)
    return governor


def test_learning_costs_at_most_the_overhead() -> None:
    """With a 1 ms engine and a 0.5 ms look-up, 2 % of overhead buy look-ups for 4 % of the requests."""
    governor = learned(0.001, 10, may_serve=False)
    assert governor.state is GovernorState.LEARNING
    assert governor.lookup_share == pytest.approx(0.04)


def test_hopeless_traffic_costs_a_tenth_of_that() -> None:
    """Where no candidate is ever near, learning costs 0.2 %."""
    assert learned(0.001, 10, may_serve=False, is_near=False).lookup_share == pytest.approx(0.004)


def test_a_dear_engine_is_learned_from_at_once() -> None:
    """Where look-ups cost nothing beside the engine, every request is looked up."""
    assert learned(0.3, 10, may_serve=False).lookup_share == 1.0


def test_it_pays() -> None:
    """A third of hits on a 20 ms engine gains milliseconds a look-up."""
    governor = learned(0.02, 3)
    assert governor.state is GovernorState.PAYS
    assert governor.lookup_share == 1.0
    assert "gains" in governor.reason


def test_it_switches_off_where_it_loses() -> None:
    """A tenth of hits on a 1 ms engine loses; a trickle stays."""
    governor = learned(0.001, 10)
    assert governor.state is GovernorState.RATIONED
    assert 0 < governor.lookup_share < 0.1
    assert "loses" in governor.reason


def test_it_notices_a_change() -> None:
    """When hits become frequent enough the trickle finds out."""
    governor = learned(0.001, 10)
    for _ in range(2000):
        governor.saw_lookup(0.0005, True, 0.1, True)
    assert governor.state is GovernorState.PAYS


def test_the_dead_band_prevents_flapping() -> None:
    """At a gain of about nothing the state stays what it was."""
    governor = learned(0.001, 3)
    settings, before = governor.settings, governor.state
    governor.hit_share = governor.lookup_s * (1 + settings.dead_band / 2) / ((1 - 0.1) * governor.engine_cost_s)
    governor._switch(may_serve=True)
    assert governor.state is before


def test_a_configured_price_counts_instead_of_the_measured_cost() -> None:
    """A remote API's price is what a hit saves."""
    governor = Governor(GovernorSettings(engine_price_s=0.3))
    governor.saw_engine(0.001)
    assert governor.engine_cost_s == 0.3


def test_index_writes_are_rationed_too() -> None:
    """Writes that cost a tenth of the engine's time are cut to a twentieth of the texts at 0.5 % for them."""
    governor = learned(0.001, 10, may_serve=False)
    governor.saw_index_write(0.0001)
    assert governor.index_share == pytest.approx(0.05)


def test_nothing_certified_means_learning_again() -> None:
    """When the breaker tripped the governor goes back to learning."""
    governor = learned(0.02, 3)
    governor.saw_lookup(0.0005, False, 1.0, False)
    assert governor.state is GovernorState.LEARNING


def test_state_survives_json() -> None:
    """A governor written as JSON and read back is the same one."""
    governor = learned(0.02, 3)
    assert Governor.from_state(governor.settings, json.loads(json.dumps(governor.to_state()))) == governor
