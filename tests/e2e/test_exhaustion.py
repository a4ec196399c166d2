"""Short versions of what `tests.e2e.attacks` measures: whatever one tenant does, the other is answered, and rightly.

Memory and connections are bounded generously: before each limit was there, they grew by five times as much and more.
"""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.embedded_redis import NotAvailable, locate
from tests.e2e.attacks import ATTACKS, MAX_CONNECTIONS, Outcome, measure, stack, table
from tests.e2e.stack import Run

try:
    locate()
except NotAvailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

BY_NAME = {attack.name: attack for attack in ATTACKS}
MAX_GROWTH_MIB = 450


@pytest.fixture(scope="module")
def attacked(real_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with stack(tmp_path_factory.mktemp("attacks"), real_bundle) as run:
        yield run
        assert run.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", BY_NAME)
def test_another_tenant_is_answered(name: str, attacked: Run) -> None:
    """No error, no wrong vector, bounded memory, no connection left over."""
    attack = BY_NAME[name]
    outcome = asyncio.run(measure(attacked, replace(attack, length_s=min(attack.length_s, 3.0)), after_s=0.3))
    print(table([outcome]))
    figures, victim = outcome.figures, outcome.victim
    assert victim.wrong_vectors == 0
    assert victim.answered > 0
    assert not victim.errors
    assert max(figures.rss) - figures.rss[0] < MAX_GROWTH_MIB
    assert max(figures.files) < figures.files[0] + MAX_CONNECTIONS + 100
    _check_what_it_got(name, outcome)


def _check_what_it_got(name: str, outcome: Outcome) -> None:
    got = outcome.got
    if "header" in name or "trailers" in name:
        assert set(got) == {"431"}
    elif "40 MB" in name:
        assert set(got) == {"413"}
    elif "upgrade" in name:
        assert set(got) == {"400"}
    elif "1,000 a minute" in name:
        assert (got["200"], got["429"]) == (1, 19)
        assert got["longest wait told, in s"] <= 300
    elif "guessed" in name:
        assert got["key 429"] > 0
        assert got["token 429"] > 0
    elif "nested" in name or "token ids" in name or "small texts" in name:
        assert not any(kind.startswith(("2", "5")) for kind in got if kind != "503")
