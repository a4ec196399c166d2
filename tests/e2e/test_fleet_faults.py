"""Three gateways, three engines and a Redis Cluster under load, while some of them are killed, frozen, slow or changed.

Short versions of what `tests.e2e.faults` measures. Whatever fails: no vector is wrong, none hangs past its deadline,
service goes on meanwhile, and all is whole again afterwards. Where processes are gone, or change, no request fails;
where they are stuck, a request may get an error of a known kind. How long things take is asserted nowhere.
"""

from collections.abc import Iterator

import pytest

from deploy.embedded_redis import NotAvailable, locate
from tests.e2e.fleet import Fleet, fleet
from tests.e2e.fleet_faults import FAULTS, Fault, measure, rolling_change, table
from tests.e2e.load import Truth

STUCK = {"engine: frozen (SIGSTOP)", "engine: slow (stopped nine tenths of the time)", FAULTS[-1].name}
TYPED = {"429 overloaded", "503 engine_unavailable", "503 engine_failed", "503 deadline_exceeded"}
LENGTH_S = 1.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    try:
        binaries = locate()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    with fleet(tmp_path_factory.mktemp("fleet"), binaries) as running:
        yield running


@pytest.fixture(scope="module")
def truth(running: Fleet) -> Truth:
    truth = running.truth()
    assert len(truth) == 2
    old, new = truth.values()
    assert len({*old.values(), *new.values()}) == 2 * len(old), "a text's vector is no other text's, of either model"
    return truth


@pytest.mark.parametrize("fault", FAULTS[1:], ids=lambda fault: fault.name)
async def test_service_goes_on(fault: Fault, running: Fleet, truth: Truth) -> None:
    """With right vectors alone, of the model that each answer names."""
    outcome = await measure(running, fault, truth, LENGTH_S)
    print(table([outcome]))
    tally = outcome.tally
    assert tally.wrong_vectors == 0
    assert tally.hung == 0
    assert set(tally.errors) <= (TYPED if fault.name in STUCK else set())
    assert tally.sent == tally.answered + tally.errors.total()
    assert outcome.went_on
    assert outcome.whole_after_s is not None
    if fault.lasting is rolling_change:
        assert set(tally.served) == set(truth), "both models have served, one after the other"
    else:
        assert len(tally.served) == 1


async def test_wrong_vectors_are_seen(running: Fleet, truth: Truth) -> None:
    """Held against another text's vectors, or the other model's, each answer counts as wrong."""
    old, new = truth
    outcome = await measure(running, FAULTS[0], {old: truth[new], new: truth[old]}, 0.1)
    assert outcome.tally.wrong_vectors >= outcome.tally.answered > 0
