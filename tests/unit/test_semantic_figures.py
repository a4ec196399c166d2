"""What metrics show of a namespace: its threshold, certificate and error budget, in either mode."""

from dataclasses import replace

from cache.keys import Scope
from cache.semantic.cost_gate import CostGateSettings
from cache.semantic.error_budget import ErrorBudget
from cache.semantic.figures import PartitionFigures, figures_of
from cache.semantic.partition import Partition
from cache.semantic.policy import Policy, SemanticMode

EPOCHS = ("1-a", "2-b")


def partition(mode: SemanticMode, namespace: str = "team-a", epochs: tuple[str, str] = EPOCHS) -> Partition:
    scope = Scope(b"s" * 32, "f" * 32, namespace, epochs)
    return Partition(scope, Policy(mode), CostGateSettings(), "e" * 16, 8)


def test_a_namespace_without_a_certificate_has_no_threshold_and_no_budget() -> None:
    """Mode `auto`, before anything is proven."""
    (found,) = figures_of([partition(SemanticMode.AUTO)])
    assert found == PartitionFigures("team-a", None, None, 0, False, 0.05, 0, 0)


def test_a_certified_namespace_shows_its_balance_and_how_often_its_breaker_opened() -> None:
    """The budget's balance, and counts of checked hits."""
    one = partition(SemanticMode.AUTO)
    one.certifier.budget = replace(ErrorBudget.start(one.policy.certifier.budget), balance=1.5)
    one.certifier.openings = 2
    one.served.update(checked=40, violations=3)
    (found,) = figures_of([one])
    assert (found.balance, found.openings, found.is_certified) == (1.5, 2, True)
    assert (found.checked, found.violations) == (40, 3)


def test_mode_on_shows_the_moving_threshold_and_its_own_balance() -> None:
    """It has no certificate, and always a balance."""
    one = partition(SemanticMode.ON)
    (found,) = figures_of([one])
    assert (found.tau, found.balance, found.is_certified) == (one.threshold.tau, one.balance_on.balance, False)


def test_of_a_purged_namespace_the_newest_partition_is_shown() -> None:
    """The one used last; each namespace once."""
    old, other = partition(SemanticMode.ON), partition(SemanticMode.ON, "team-b")
    new = partition(SemanticMode.ON, epochs=("1-a", "3-c"))
    new.served["checked"] = 7
    assert {one.namespace: one.checked for one in figures_of([old, other, new])} == {"team-a": 7, "team-b": 0}
