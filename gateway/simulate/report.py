"""The replays of a recording, one a mode and fidelity, and what is shown of them."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from cache.semantic.policy import Policy
from cache.semantic.replay import Costs, Outcome, Partition, Replay, StaticEmbedding, Ungated
from gateway.semantic_tiers import semantic_settings
from gateway.settings import GatewaySettings
from gateway.simulate.record import Progress, Recorded

WIDTH: Final = 118  # all columns
CURVE_STEP: Final = 0.01
CURVE_UNTIL: Final = 0.99


@dataclass(frozen=True, slots=True)
class Row:
    """One replay."""

    mode: str
    fidelity: float
    outcome: Outcome


@dataclass(slots=True)
class Report:
    """`curve`: of a replay that looks up every text and serves nothing; `price_s`: of a text, where one is set."""

    costs: Costs
    engine_s: float  # a text, on the mean
    exact_repeats: int
    requests: int
    price_s: float | None
    rows: list[Row] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)
    reading: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything, shares in [0, 1], seconds."""
        return {
            "requests": self.requests,
            "exact_repeats": self.exact_repeats,
            "engine_s": self.engine_s,
            "lookup_s": self.costs.lookup_s,
            "index_write_s": self.costs.index_s,
            "engine_price_s": self.price_s,
            "replays": [self._entry(row) for row in self.rows],
            "curve": self.curve,
            "reading": self.reading,
        }

    def print(self) -> None:
        """Print on standard output, wide enough for all columns."""
        console = Console(highlight=False)
        if not console.is_terminal or console.width < WIDTH:
            console = Console(highlight=False, width=WIDTH)
        console.print(self._replays())
        console.print(self._notes(), soft_wrap=True)
        console.print("\nWhat if every text were looked up, and all from one z on reused? (z as mode auto has it)")
        console.print(self._curve())
        console.print(self.reading, soft_wrap=True)

    def _entry(self, row: Row) -> dict[str, Any]:
        out = row.outcome
        at_price = None if self.price_s is None else out.saved_at_price_s(self.price_s, self.costs)
        return {
            "mode": row.mode,
            "fidelity": row.fidelity,
            "requests": out.total,
            "exact_repeats": out.total - out.requests,
            "lookups": out.lookups,
            "hits": out.hits,
            "violations": out.violations,
            "violations_upper_bound": out.violations_bound,
            "checked_hits": out.checks,
            "breaker_openings": out.openings,
            "first_hit_at": out.first_hit_at,
            "mean_similarity": out.mean_similarity,
            "serves_from": out.tau,
            "index_writes": out.indexed,
            "saved_s": out.saved_s,
            "saved_at_price_s": at_price,
        }

    def _replays(self) -> Table:
        heads = ["mode", "fidelity", "requests", "exact\nrepeats", "looked\nup", "semantic\nhits"]
        heads += ["violations\nof hits", "95 %\nbound", "first\nhit at", "mean\nsimilarity", "saved"]
        table = _table()
        for head in [*heads, *(["saved at\nthe price"] if self.price_s is not None else [])]:
            table.add_column(head, justify="left" if head == "mode" else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*self._cells(row))
        return table

    def _cells(self, row: Row) -> list[str]:
        out = row.outcome
        shares = [(out.total - out.requests) / out.total, out.lookups / out.total, out.hits / out.total]
        violations = out.violations / out.hits if out.hits else None
        cells = [row.mode, f"{row.fidelity:g}", f"{out.total:,}", *map(_percent, shares)]
        cells += [_percent(violations), _percent(out.violations_bound)]
        cells += ["-" if out.first_hit_at is None else f"{out.first_hit_at:,}"]
        cells += ["-" if out.mean_similarity is None else f"{out.mean_similarity:.3f}", _seconds(out.saved_s)]
        return cells if self.price_s is None else [*cells, _seconds(out.saved_at_price_s(self.price_s, self.costs))]

    def _notes(self) -> str:
        price = "" if self.price_s is None else f"; a text's price {self.price_s * 1e3:g} ms"
        lookup_ms, index_ms = self.costs.lookup_s * 1e3, self.costs.index_s * 1e3
        lines = [
            f"Engine: {self.engine_s * 1e3:.2f} ms a text, measured now{price}. Saved: its time for hits, less that",
            f"for checks of hits, look-ups at {lookup_ms:.2f} ms and index writes at {index_ms:.2f} ms.",
        ]
        if any(row.mode == "auto" and row.outcome.lookups < row.outcome.requests / 2 for row in self.rows):
            lines += [
                "Where auto looked up few: nothing was proven yet, or look-ups cost more than they save, and the cost",
                "gate rations them. --engine-price-ms shows a more expensive engine.",
            ]
        return "\n".join(lines)

    def _curve(self) -> Table:
        table = _table()
        fidelities = list(self.curve[0]["violations"]) if self.curve else []
        for head in ("z from", "reused", *(f"of those\nbelow {fidelity}" for fidelity in fidelities)):
            table.add_column(head, justify="right", no_wrap=True)
        for point in self.curve:
            violations = point["violations"].values()
            table.add_row(f"{point['tau']:.2f}", _percent(point["reused"]), *map(_percent, violations))
        return table


def simulate(
    recorded: Recorded, embedding: bytes, settings: GatewaySettings, fidelities: tuple[float, ...], progress: Progress
) -> Report:
    """All replays of a recording, and the curve. Raises StaticEmbeddingError."""
    recording, tier = recorded.recording, semantic_settings(settings)
    costs = Costs(token_s=recorded.token_s)
    tokens = sum(map(len, recording.ids))
    report = Report(
        costs,
        recorded.token_s * tokens / len(recording.ids),
        len(recording.order) - len(recording.ids),
        len(recording.order),
        tier.engine_price_s,
    )
    opened = StaticEmbedding.from_bytes(embedding)

    def replayed(mode: str, fidelity: float, what: str, partition: type[Partition]) -> Replay:
        replay = Replay(recording, opened, _policy(settings, mode, fidelity), costs, tier, partition)
        replay.run(partial(progress, what))
        return replay

    for mode, fidelity in [*(("auto", fidelity) for fidelity in fidelities), ("on", settings.semantic_fidelity)]:
        outcome = replayed(mode, fidelity, f"{mode}, fidelity {fidelity:g}", Partition).outcome
        report.rows.append(Row(mode, fidelity, outcome))
    what_if = replayed("observe", settings.semantic_fidelity, "what if", Ungated)
    shown = what_if.curve(tuple(sorted({*fidelities, settings.semantic_fidelity})))
    report.curve = [point for point in shown if _is_shown(point["tau"])]
    report.reading = what_if.reading()
    return report


def _policy(settings: GatewaySettings, mode: str, fidelity: float) -> Policy:
    return Policy.of(
        mode,
        fidelity,
        settings.certificate_alpha,
        settings.certificate_beta,
        settings.similarity_threshold,
        settings.threshold_floor,
        settings.threshold_ceiling,
    )


def _is_shown(tau: float) -> bool:
    return tau <= CURVE_UNTIL and abs(tau / CURVE_STEP - round(tau / CURVE_STEP)) < 1e-6


def _table() -> Table:
    return Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:+.2f} s"
