"""Alternating rounds and the ratios between contenders.

A machine's speed drifts, so contenders are measured in turn (A B C, A B C, ...) and compared round by round;
the ratio reported is the median over the rounds, with its range.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.bench.generator import Measurement
from loadtest.bench.machine import Machine
from loadtest.display import step
from loadtest.figures import Spread, ratios, spread

OTHER_CPU = "an aim for CPUs with INT8 dot products"
SETTLE_S = 0.5  # between rounds, so that what one contender still has to do is not charged to the next


@dataclass(frozen=True, slots=True)
class Contender:
    """Something measured: its name, and one round of it; `per_request` embeddings make its unit a text.

    A server is given a round that does not count (`needs_warmup`): connections, code paths and allocators settle.
    """

    name: str
    measure: Callable[[], Measurement]
    per_request: int = 1
    needs_warmup: bool = True


@dataclass(frozen=True, slots=True)
class Ratio:
    """A quotient of two contenders' rates; `aim` is what it should reach, where there is such a figure.

    `dot_products_only`: the aim was set for CPUs with INT8 dot products (VNNI, or arm64's), and is none for others.
    """

    name: str
    above: str
    below: str
    aim: float | None = None
    dot_products_only: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """How much longer one contender's median latency is than another's; `at_most_ms` is the aim on every CPU."""

    name: str
    above: str
    below: str
    at_most_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """All rounds of one contender."""

    contender: Contender
    rounds: Sequence[Measurement]

    @property
    def rates(self) -> list[float]:
        """Texts a second, round by round."""
        return [measurement.rate * self.contender.per_request for measurement in self.rounds]

    @property
    def p50_ms(self) -> list[float]:
        """Median latency of a request, round by round."""
        return [measurement.p50_ms for measurement in self.rounds]

    @property
    def remarks(self) -> str:
        """Tiers that answered, failures, and whether the generator was the limit."""
        tiers = sorted({tier for measurement in self.rounds for tier in measurement.tiers})
        failed = sum(sum(measurement.failed.values()) for measurement in self.rounds)
        kinds = sorted({kind for measurement in self.rounds for kind in measurement.failed})
        parts = ["+".join(tiers)] if tiers else []
        parts += [f"[bold red]{failed:,} failed ({', '.join(kinds)})[/]"] if failed else []
        parts += ["[bold red]generator saturated[/]"] if any(m.is_saturated for m in self.rounds) else []
        return "; ".join(parts)


class Reported(Protocol):
    """What a benchmark ends with, whatever it measured."""

    def show(self, console: Console) -> None:
        """Print it."""

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""

    def spreads(self) -> Mapping[str, Spread]:
        """What it compared, by name: what aims are judged by."""


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's outcome: contenders by name, what is compared, and single figures besides."""

    title: str
    machine: Machine
    outcomes: Mapping[str, Outcome]
    ratios: Sequence[Ratio] = ()
    differences: Sequence[Difference] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def ratio(self, ratio: Ratio) -> Spread:
        """A ratio's spread over the rounds."""
        return ratios(self.outcomes[ratio.above].rates, self.outcomes[ratio.below].rates)

    def difference(self, difference: Difference) -> Spread:
        """A difference's spread over the rounds, in milliseconds."""
        above, below = self.outcomes[difference.above], self.outcomes[difference.below]
        return spread([one - other for one, other in zip(above.p50_ms, below.p50_ms, strict=True)])

    def spreads(self) -> Mapping[str, Spread]:
        """Ratios, and differences in milliseconds, by name."""
        ratios_ = {ratio.name: self.ratio(ratio) for ratio in self.ratios}
        return ratios_ | {one.name: self.difference(one) for one in self.differences}

    def show(self, console: Console) -> None:
        """Print machine, contenders and ratios."""
        show(self, console)

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "title": self.title,
            "machine": asdict(self.machine),
            "contenders": {
                name: {
                    "texts_per_s": asdict(spread(outcome.rates)),
                    "p50_ms": asdict(spread(outcome.p50_ms)),
                    "rounds": [asdict(measurement) for measurement in outcome.rounds],
                }
                for name, outcome in self.outcomes.items()
            },
            "ratios": {
                r.name: asdict(self.ratio(r)) | {"aim": r.aim, "dot_products_only": r.dot_products_only}
                for r in self.ratios
            },
            "differences_ms": {
                d.name: asdict(self.difference(d)) | {"at_most": d.at_most_ms} for d in self.differences
            },
            "figures": dict(self.figures),
        }


def alternate(
    contenders: Sequence[Contender], rounds: int, console: Console, settle_s: float = SETTLE_S
) -> dict[str, Outcome]:
    """Measure each contender in turn, `rounds` times over, after a round that does not count."""
    for contender in contenders:
        if contender.needs_warmup:
            with step(console, f"warming up: {contender.name}"):
                contender.measure()
    measured: dict[str, list[Measurement]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            time.sleep(settle_s)
            with step(console, f"round {number + 1} of {rounds}: {contender.name}"):
                measured[contender.name].append(contender.measure())
    return {contender.name: Outcome(contender, measured[contender.name]) for contender in contenders}


def show(result: Result, console: Console) -> None:
    """Print machine, contenders and ratios."""
    console.print(f"\n[bold]{escape(result.title)}[/]\n{escape(str(result.machine))}", soft_wrap=True)
    table = figures_table(("", "texts/s, median", "lowest - highest", "p50 ms", "p99 ms", ""))
    for name, outcome in result.outcomes.items():
        rates = spread(outcome.rates)
        p99 = spread([measurement.p99_ms for measurement in outcome.rounds]).median
        table.add_row(
            escape(name),
            f"{rates.median:,.0f}",
            f"{rates.low:,.0f} - {rates.high:,.0f}",
            f"{spread(outcome.p50_ms).median:.2f}",
            f"{p99:.2f}",
            outcome.remarks,
        )
    console.print(table)
    show_comparisons(result, console)


def show_comparisons(result: Result, console: Console) -> None:
    """Print ratios and differences beside their aims, then the single figures."""
    table = figures_table(("round by round", "median", "lowest - highest", "aim", ""))
    for ratio in result.ratios:
        values = result.ratio(ratio)
        aim = "" if ratio.aim is None else f"≥ {ratio.aim:g}"
        verdict = _verdict(aim, ratio.aim is None or values.median >= ratio.aim)
        if aim and ratio.dot_products_only and not result.machine.int8_dot_products:
            verdict = OTHER_CPU
        table.add_row(escape(ratio.name), *_cells(values, ""), aim, verdict)
    for difference in result.differences:
        values = result.difference(difference)
        aim = "" if difference.at_most_ms is None else f"≤ {difference.at_most_ms:g} ms"
        reached = difference.at_most_ms is None or values.median <= difference.at_most_ms
        table.add_row(escape(difference.name), *_cells(values, " ms"), aim, _verdict(aim, reached))
    if table.row_count:
        console.print(table)
    for name, value in result.figures.items():
        console.print(f"{escape(name)}: {value:.3g}")


def _cells(values: Spread, unit: str) -> tuple[str, str]:
    return f"{_short(values.median)}{unit}", f"{_short(values.low)} - {_short(values.high)}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _verdict(aim: str, reached: bool) -> str:
    if not aim:
        return ""
    return "reached" if reached else "[red]missed[/]"


def results_json(results: Sequence[Reported]) -> bytes:
    """Results as indented JSON."""
    return orjson.dumps([result.to_dict() for result in results], option=orjson.OPT_INDENT_2)


def figures_table(columns: Sequence[str]) -> Table:
    """An empty table: names at the left, figures at the right, remarks in the last column."""
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number in {0, len(columns) - 1} else "right")
    return table
