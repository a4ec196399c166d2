"""What is shown of a tier in metrics: of each namespace its threshold, certificate and error budget."""

from collections.abc import Iterable
from dataclasses import dataclass

from cache.semantic.partition import Partition
from cache.semantic.policy import SemanticMode


@dataclass(frozen=True, slots=True)
class PartitionFigures:
    """One namespace's; `tau` None: nothing is served, `balance` None: there is no error budget now."""

    namespace: str
    tau: float | None
    balance: float | None
    openings: int
    is_certified: bool
    alpha: float
    checked: int
    violations: int


def figures_of(partitions: Iterable[Partition]) -> list[PartitionFigures]:
    """One a namespace: of several partitions of one, which a purge leaves for a while, the last."""
    return list({one.scope.namespace: _of(one) for one in partitions}.values())


def _of(partition: Partition) -> PartitionFigures:
    certifier = partition.certifier
    budget = partition.balance_on if partition.policy.mode is SemanticMode.ON else certifier.budget
    return PartitionFigures(
        namespace=partition.scope.namespace,
        tau=partition.serving_from,
        balance=None if budget is None else budget.balance,
        openings=certifier.openings,
        is_certified=certifier.budget is not None,
        alpha=partition.policy.alpha,
        checked=partition.served["checked"],
        violations=partition.served["violations"],
    )
