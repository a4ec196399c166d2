"""Real processes killed, frozen and replaced under load: short versions of what `tests.e2e.faults` measures.

Whatever happens, no answer is wrong, none hangs past its deadline, and all is whole again afterwards. How long things
take is measured there, and asserted nowhere.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest

from deploy.embedded_redis import NotAvailable, locate
from tests.e2e.faults import FAULTS, Outcome, measure, stack, table
from tests.e2e.load import Truth, true_vectors
from tests.e2e.stack import Run

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

BY_NAME = {fault.name: fault for fault in FAULTS}
HARMLESS = ["Redis: kill -9", "Redis: frozen (SIGSTOP) 10 s", "20 clients never read", "20 clients drip their body"]
REPLACED = ["engine replaced (SIGTERM), retrying clients", "gateway replaced (SIGTERM), retrying clients"]
TYPED = {
    "engine: kill -9": {"503 engine_unavailable", "503 engine_failed"},
    "engine: frozen (SIGSTOP) 10 s": {"503 engine_unavailable", "503 deadline_exceeded"},
    "gateway worker: kill -9": {"connection lost", "refused"},
}


@pytest.fixture(scope="module")
def broken(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with stack(tmp_path_factory.mktemp("faults"), real_bundle) as run:
        yield run


@pytest.fixture(scope="module")
def truth(broken: Run) -> Truth:
    return asyncio.run(true_vectors(f"http://127.0.0.1:{broken.port}"))


async def outcome_of(name: str, run: Run, truth: Truth) -> Outcome:
    """The fault, shortened, and what must hold after any fault."""
    fault = BY_NAME[name]
    outcome = await measure(run, changed(fault, length_s=min(fault.length_s, 2.0)), truth)
    tally = outcome.tally
    print(table([outcome]))
    assert tally.wrong_vectors == 0
    assert tally.hung == 0
    assert tally.sent == tally.answered + tally.errors.total()
    assert tally.answered > 0
    return outcome


@pytest.mark.parametrize("name", HARMLESS)
async def test_no_request_fails(name: str, broken: Run, truth: Truth) -> None:
    """Redis dead or frozen, and clients that hold their connections, cost nobody an answer."""
    outcome = await outcome_of(name, broken, truth)
    assert not outcome.tally.errors
    assert outcome.whole_after_s is not None


@pytest.mark.parametrize("name", TYPED)
async def test_failures_are_typed_and_end(name: str, broken: Run, truth: Truth) -> None:
    """What cannot be answered while a process is gone gets an error of a known kind, until it is back."""
    outcome = await outcome_of(name, broken, truth)
    assert set(outcome.tally.errors) <= TYPED[name]
    assert outcome.whole_after_s is not None


@pytest.mark.parametrize("name", REPLACED)
async def test_a_rolling_restart_loses_no_request(name: str, broken: Run, truth: Truth) -> None:
    """SIGTERM finishes what runs; clients that try again get every answer."""
    outcome = await outcome_of(name, broken, truth)
    assert not outcome.tally.errors
    assert outcome.whole_after_s is not None


async def test_a_full_gateway_refuses_the_rest(broken: Run, truth: Truth) -> None:
    """Beyond its room it answers 429 and goes on answering the others."""
    outcome = await outcome_of("full: 96 clients, room for 48", broken, truth)
    assert set(outcome.tally.errors) == {"429 overloaded"}
