"""`python -m loadtest.bench aims`: all aims of speed in one table, reached or missed on this kind of CPU.

Runs the benchmarks whose figures aims were set for, each for a short time, and judges the median of each figure over
the rounds. An aim of another kind of CPU is shown with its figure and without a verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.markup import escape

from common.output_file import OutputFile
from loadtest.bench import norepeat as norepeat_side
from loadtest.bench.engine import IDLE, engine
from loadtest.bench.engine import RATIOS as ENGINE_RATIOS
from loadtest.bench.gateway import RATIOS as GATEWAY_RATIOS
from loadtest.bench.gateway import gateway
from loadtest.bench.machine import Machine, describe, usable_cores
from loadtest.bench.options import OWN_GENERATOR, text_options
from loadtest.bench.products import RATIOS as PRODUCT_RATIOS
from loadtest.bench.products import products
from loadtest.bench.rounds import Difference, Ratio, Reported, figures_table
from loadtest.display import wide_console
from loadtest.figures import Spread

REACHED, MISSED, NOT_MEASURED = "reached", "missed", "not measured"
OTHER_CPU: Final = "no aim on this CPU"
ELSEWHERE: Final = "its own command"


@dataclass(frozen=True, slots=True)
class Aim:
    """One figure and its bound, by the name it has among a benchmark's `spreads`; the command that gives it alone.

    `benchmark` is empty where only that command can tell.
    """

    figure: str
    benchmark: str
    command: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    dot_products_only: bool = False

    @property
    def bound(self) -> str:
        """As it is shown."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}{self.unit}"

    def is_reached(self, value: float) -> bool:
        """Whether a median keeps the bound."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is None or value <= self.at_most


@dataclass(frozen=True, slots=True)
class Judged:
    """An aim, its figure where there is one, and the verdict."""

    aim: Aim
    figure: Spread | None
    verdict: str


def judge(aim: Aim, measured: Mapping[str, Mapping[str, Spread]], machine: Machine) -> Judged:
    """By the median; `measured` has each benchmark's spreads."""
    if not aim.benchmark:
        return Judged(aim, None, ELSEWHERE)
    figure = measured.get(aim.benchmark, {}).get(aim.figure)
    if figure is None:
        return Judged(aim, None, NOT_MEASURED)
    if aim.dot_products_only and not machine.int8_dot_products:
        return Judged(aim, figure, OTHER_CPU)
    return Judged(aim, figure, REACHED if aim.is_reached(figure.median) else MISSED)


def _command(benchmark: str) -> str:
    return f'make bench ARGS="{benchmark}"'


def _of_ratios(benchmark: str, ratios: Sequence[Ratio]) -> list[Aim]:
    return [
        Aim(one.name, benchmark, _command(benchmark), at_least=one.aim, dot_products_only=one.dot_products_only)
        for one in ratios
        if one.aim is not None
    ]


def _of_differences(benchmark: str, differences: Sequence[Difference]) -> list[Aim]:
    return [
        Aim(one.name, benchmark, _command(benchmark), at_most=one.at_most_ms, unit=" ms")
        for one in differences
        if one.at_most_ms is not None
    ]


AIMS: Final = (
    *_of_ratios("gateway", GATEWAY_RATIOS),
    *_of_ratios("engine", ENGINE_RATIOS),
    *_of_differences("engine", IDLE),
    *(Aim(name, "norepeat", _command("norepeat"), at_most=most) for name, most in norepeat_side.MOST_ADDED.items()),
    *_of_ratios("products", PRODUCT_RATIOS),
    Aim("first of all CPU runtimes at equal or better accuracy", "", "dejavec study --peer ..."),
)


@dataclass(frozen=True, slots=True)
class AimsTable:
    """All aims judged on one machine; `faults` has what kept a benchmark from running."""

    machine: Machine
    judged: Sequence[Judged]
    faults: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The machine's kind of CPU."""
        return self.machine.kind

    def count(self, verdict: str) -> int:
        """How many aims have it."""
        return sum(one.verdict == verdict for one in self.judged)

    def show(self, console: Console) -> None:
        """Print the table, what is not good first."""
        title = f"Aims on {self.kind} ({self.machine.cpu}): {self.count(REACHED)} reached, {self.count(MISSED)} missed"
        console.print(f"\n[bold]{escape(title)}[/]", soft_wrap=True)
        if self.machine.warning:
            console.print(f"[bold red]{escape(self.machine.warning)}[/]", soft_wrap=True)
        for benchmark, fault in self.faults.items():
            console.print(f"[bold red]{escape(benchmark)} did not run:[/] {escape(fault)}", soft_wrap=True)
        table = figures_table(("aim", "bound", "median", "lowest - highest", "", "alone"))
        for one in sorted(self.judged, key=lambda one: ORDER.index(one.verdict)):
            figure, aim = one.figure, one.aim
            cells = ("", "") if figure is None else (f"{_shown(figure.median)}{aim.unit}", _range(figure))
            verdict = f"[red]{one.verdict}[/]" if one.verdict in (MISSED, NOT_MEASURED) else one.verdict
            table.add_row(escape(aim.figure), aim.bound, *cells, verdict, escape(aim.command))
        console.print(table)
        if self.machine.server_core is not None:
            cores = f"--core {self.machine.server_core} --generator-core {self.machine.generator_core}"
            console.print(f"Servers and generator had cores of their own: give {cores} with a command, too.")

    def spreads(self) -> Mapping[str, Spread]:
        """Every figure there is, by its aim's name."""
        return {one.aim.figure: one.figure for one in self.judged if one.figure is not None}

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "machine": asdict(self.machine),
            "aims": [asdict(one) | {"bound": one.aim.bound} for one in self.judged],
            "faults": dict(self.faults),
        }


ORDER: Final = (MISSED, NOT_MEASURED, REACHED, OTHER_CPU, ELSEWHERE)


def _range(figure: Spread) -> str:
    return f"{_shown(figure.low)} - {_shown(figure.high)}"


def _shown(value: float) -> str:
    """With three decimals: what misses a bound by less is still seen to."""
    return f"{value:.3f}"


@dataclass(frozen=True, slots=True)
class Short:
    """A benchmark's command, and the options that keep it short."""

    command: click.Command
    options: Mapping[str, Any]


LOADED: Final = {"seconds": 1.5, "count": 1000}
BENCHMARKS: Final[Mapping[str, Short]] = {
    "gateway": Short(gateway, LOADED),
    "engine": Short(engine, LOADED),
    "norepeat": Short(norepeat_side.norepeat, {"batched": 640, "singles": 192}),
    "products": Short(products, {"seconds": 0.25}),
}


@click.command("aims")
@click.option("--core", type=int, help="Pin all servers to this core; by default the first of two or more.")
@click.option("--generator-core", type=int, help="Pin the generator to this one; by default the second.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
@text_options
@click.option("--json", "json_file", type=OutputFile(), help="Write all figures.")
@click.pass_context
def aims(context: click.Context, /, *, json_file: Path | None, **options: Any) -> None:
    """All aims in one table: reached or missed on this machine's kind of CPU, each with its figure. Some five minutes.

    Runs `gateway`, `engine`, `norepeat` and `products`, each with short rounds; for firm figures run one alone. Exits
    with status 1 where a benchmark did not run; a missed aim is a figure, and no fault.
    """
    cores = usable_cores()
    if options["core"] is None and options["generator_core"] is None and len(cores) > 1:
        options["core"], options["generator_core"] = cores[:2]
    machine = describe(options["core"], options["generator_core"], OWN_GENERATOR)  # before the first makes it busy
    table, results = measure(
        machine, lambda one: context.invoke(one.command, **options, **one.options, machine=machine)
    )
    table.show(wide_console())
    if json_file is not None:
        written = table.to_dict() | {"results": {name: [one.to_dict() for one in of] for name, of in results.items()}}
        json_file.write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2))
    if table.faults:
        context.exit(1)


def measure(
    machine: Machine, run: Callable[[Short], Sequence[Reported]]
) -> tuple[AimsTable, Mapping[str, Sequence[Reported]]]:
    """Run each benchmark; one that fails leaves its aims unmeasured. The table, and what each gave."""
    results: dict[str, Sequence[Reported]] = {}
    faults: dict[str, str] = {}
    for name, one in BENCHMARKS.items():
        try:
            results[name] = run(one)
        except click.ClickException as error:
            faults[name] = error.message
    measured = {
        name: {figure: spread for one in found for figure, spread in one.spreads().items()}
        for name, found in results.items()
    }
    return AimsTable(machine, [judge(aim, measured, machine) for aim in AIMS], faults), results
