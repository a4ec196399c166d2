"""What a running gateway has saved since it started, by tier, from its own counters and its engine's.

A hit saves the engine's time for a text, which is taken to be the mean of the texts that it computed. Against it stand
the look-ups, all of them, those of misses too, and the hits that were computed again to check them. What the counters
do not say is named and not estimated.
"""

from dataclasses import dataclass, field

from common.credentials import shown_url
from common.prometheus_text import Samples
from loadtest.cost.bill import Figure
from loadtest.cost.prices import CostError, Price
from loadtest.tiers import HITS, MISS


@dataclass(frozen=True, slots=True)
class TierSaving:
    """One tier: texts served, engine seconds not spent, seconds spent for it, and the tokens' price by an API.

    None where the counters, or a price, are missing.
    """

    tier: str
    texts: float
    share: float
    engine_s: float | None
    spent_s: float | None
    api_usd: float | None

    @property
    def net_s(self) -> float | None:
        """Engine seconds saved less those spent; below 0 where the tier costs more than it saves."""
        return None if self.engine_s is None or self.spent_s is None else self.engine_s - self.spent_s


@dataclass
class Savings:
    """All tiers, with the figures that they are made of, and what the counters do not say."""

    tiers: list[TierSaving]
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    texts: float = 0.0
    machine_usd: float | None = None

    @property
    def net_s(self) -> float | None:
        """Engine seconds saved by all tiers, net."""
        net = [tier.net_s for tier in self.tiers]
        return None if None in net else sum(one for one in net if one is not None)

    @property
    def api_usd(self) -> float | None:
        """What the API would have charged for what came from caches."""
        found = [tier.api_usd for tier in self.tiers]
        return None if None in found else sum(one for one in found if one is not None)


def savings(
    gateway: Samples, engine: Samples | None, api: Price | None, machine: Price | None, engine_url: str = ""
) -> Savings:
    """Figures of these counters; `engine_url` is shown beside the engine's.

    Raises CostError where the gateway has served nothing.
    """
    counts = {tier: gateway.total("dejavec_cache_hits_total", tier=tier) or 0.0 for tier in (*HITS, MISS)}
    texts = sum(counts.values())
    if not texts:
        raise CostError("this gateway has served no text since it started: it has saved nothing")
    found = Savings([], texts=texts)
    a_text = _engine_seconds_a_text(found, engine, engine_url)
    tokens = _tokens_a_text(found, gateway, texts)
    spent = {"local": 0.0, "exact": _lookups(found, gateway), "semantic": _semantic(found, gateway, a_text)}
    if api is None:
        found.missing.append("What an API would have charged: give --api or --api-price.")
    for tier in HITS:
        count = counts[tier]
        price = None if api is None or tokens is None else count * tokens / 1e6 * api.usd
        found.tiers.append(
            TierSaving(tier, count, count / texts, None if a_text is None else count * a_text, spent[tier], price)
        )
    _money(found, machine)
    return found


def _engine_seconds_a_text(found: Savings, engine: Samples | None, engine_url: str) -> float | None:
    if engine is None:
        found.missing.append("The engine's time for a text: give --engine-url, whose counters have it.")
        return None
    seconds, rows = (engine.total(f"dejavec_engine_{name}_sum") for name in ("run_seconds", "batch_rows"))
    if not seconds or not rows:
        found.missing.append("The engine's time for a text: it has computed none since it started.")
        return None
    value = seconds / rows
    formula = f"{seconds:,.3f} s of runs / {rows:,.0f} texts computed"
    if engine_url:
        formula += f", by {shown_url(engine_url)}"
    found.figures.append(Figure("engine seconds a text", value, "s", formula))
    return value


def _tokens_a_text(found: Savings, gateway: Samples, texts: float) -> float | None:
    tokens = gateway.total("dejavec_tokens_total")
    if not tokens:
        found.missing.append("Tokens a text: the gateway has counted none.")
        return None
    found.figures.append(
        Figure("tokens a text", tokens / texts, "count", f"{tokens:,.0f} / {texts:,.0f}, over all texts")
    )
    return tokens / texts


def _lookups(found: Savings, gateway: Samples) -> float | None:
    seconds = gateway.total("dejavec_exact_lookup_seconds_sum")
    count = gateway.total("dejavec_exact_lookup_seconds_count")
    if seconds is None or count is None:
        found.missing.append("The time of look-ups in Redis: the gateway has not counted it.")
        return None
    found.figures.append(
        Figure(
            "waited for Redis",
            seconds,
            "s",
            f"{count:,.0f} look-ups, also of texts that were then computed; taken off in full",
        )
    )
    return seconds


def _semantic(found: Savings, gateway: Samples, a_text: float | None) -> float | None:
    """Seconds of semantic look-ups and of the checks of their hits; None where either is unknown."""
    checks = _checks(found, gateway, a_text)
    seconds = gateway.total("dejavec_stage_seconds_sum", stage="semantic")
    count = gateway.total("dejavec_stage_seconds_count", stage="semantic")
    if seconds is None or count is None:
        if gateway.total("dejavec_semantic_lookups_total"):
            found.missing.append("The time of semantic look-ups: the gateway has not counted it.")
            return None
        return checks
    formula = f"{count:,.0f} requests, also with texts that were then computed; taken off in full"
    found.figures.append(Figure("waited for semantic look-ups", seconds, "s", formula))
    return None if checks is None else checks + seconds


def _checks(found: Savings, gateway: Samples, a_text: float | None) -> float | None:
    checks = gateway.total("dejavec_semantic_labels_total", of="hit") or 0.0
    if a_text is None:
        return None
    spent = checks * a_text
    found.figures.append(Figure("spent on checking hits", spent, "s", f"{checks:,.0f} checks x {a_text:.6f} s"))
    return spent


def _money(found: Savings, machine: Price | None) -> None:
    net = found.net_s
    if machine is None:
        found.missing.append("What the engine's time is worth: give --machine or --machine-price.")
    elif net is not None:
        found.machine_usd = net / 3600 * machine.usd
        formula = f"{net:,.1f} s / 3,600 x ${machine.usd:g}: money only where fewer machine hours are paid for it"
        found.figures.append(Figure("worth of the engine's time, net", found.machine_usd, "usd", formula))
