"""What a bill is made of. What was not given is None: no default stands for it."""

from dataclasses import dataclass, field

from common.prometheus_text import Samples
from loadtest.cost.prices import CostError, Price, amount
from loadtest.report import Report
from loadtest.tiers import HITS, MISS

MAX_TEXTS = 1e15


@dataclass(frozen=True, slots=True)
class Inputs:
    """A month of traffic, and prices; `shares` by cache tier, of all texts.

    `computed_per_s` and `cached_per_s` are the texts that one machine serves in a second, all of them misses or hits;
    `peak` is the rate to build for, in multiples of the month's mean; `other_monthly` is what else is paid, such as
    Redis. `origins` says of each where it is from.
    """

    texts: float | None = None
    tokens: float | None = None
    shares: dict[str, float] | None = None
    api: Price | None = None
    machine: Price | None = None
    machines: int | None = None
    computed_per_s: float | None = None
    cached_per_s: float | None = None
    peak: float | None = None
    other_monthly: float | None = None
    origins: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("texts", "tokens", "computed_per_s", "cached_per_s", "peak", "other_monthly"):
            value = getattr(self, name)
            if value is not None:
                amount(name, value)
        for name in ("computed_per_s", "cached_per_s", "texts", "tokens"):
            if getattr(self, name) == 0:
                raise CostError(f"{name} is 0: nothing can be said of it")
        if self.texts is not None and self.texts > MAX_TEXTS:
            raise CostError(f"texts is {self.texts:g}: more than {MAX_TEXTS:g} a month")
        if self.peak is not None and self.peak < 1:
            raise CostError(f"peak is {self.peak:g}: the highest rate cannot be below the mean; give 1 or more")
        if self.machines is not None and self.machines < 1:
            raise CostError("machines must be 1 or more")
        for tier, share in (self.shares or {}).items():
            if amount(f"the share of {tier}", share) > 1:
                raise CostError(f"the share of {tier} is {share:g}: give a share from 0 to 1, such as 0.4 for 40 %")
        if sum((self.shares or {}).values()) > 1 + 1e-9:
            raise CostError(f"the hit shares add up to {sum((self.shares or {}).values()):g}: more than all texts")

    @property
    def hits(self) -> float | None:
        """The share of texts from any cache."""
        return None if self.shares is None else min(sum(self.shares.values()), 1.0)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was counted: shares by tier, tokens a text, texts a request; None where it was not."""

    shares: dict[str, float]
    tokens: float | None
    texts_a_request: float | None
    origin: str


def traffic_of_report(report: Report, name: str) -> Traffic:
    """The traffic of a load test. Raises CostError where its server named no tiers."""
    known = sum(report.items.get(tier, 0) for tier in (*HITS, MISS))
    if not known:
        raise CostError(f"{name}: the server named no cache tiers, so the report has no hit shares")
    texts = sum(report.items.values())
    return Traffic(
        shares={tier: report.items.get(tier, 0) / known for tier in HITS},
        tokens=report.tokens / texts if report.tokens else None,
        texts_a_request=texts / report.answered if report.answered else None,
        origin=f"the load test {name}, which sent {report.settings.workload}",
    )


def traffic_of_gateway(metrics: Samples, url: str) -> Traffic:
    """The traffic of a running gateway since it started. Raises CostError where it has counted nothing."""
    counts = {tier: metrics.total("dejavec_cache_hits_total", tier=tier) or 0.0 for tier in (*HITS, MISS)}
    texts = sum(counts.values())
    if not texts:
        raise CostError(f"{url} has served no text since it started: there is nothing to count")
    tokens = metrics.total("dejavec_tokens_total")
    return Traffic(
        shares={tier: counts[tier] / texts for tier in HITS},
        tokens=tokens / texts if tokens else None,
        texts_a_request=None,
        origin=f"the counters of {url}",
    )
