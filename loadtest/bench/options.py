"""What all benchmarks take on the command line, and what they do with it at their ends."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console

from common.output_file import OutputFile
from loadtest.bench.load import Load, wrk_installed
from loadtest.bench.machine import Machine, describe
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.rounds import Reported, results_json
from loadtest.display import wide_console
from loadtest.texts import TextsError, read_lines

SEED = 0
OWN_GENERATOR, WRK = "own", "wrk"
DEFAULT_BUNDLE = Path(".dejavec/models/all-MiniLM-L6-v2")


@dataclass(frozen=True, slots=True)
class Bench:
    """The common settings of one benchmark run."""

    core: int | None
    generator_core: int | None
    rounds: int
    texts_file: Path | None
    field: str
    bundle: Path
    json_file: Path | None
    machine: Machine
    console: Console
    seconds: float = 5.0
    connections: int = 32
    count: int | None = None  # all
    generator: str = OWN_GENERATOR

    @property
    def load(self) -> Load:
        """How every contender is driven."""
        return Load(self.seconds, self.generator_core, use_wrk=self.generator == WRK)

    def texts(self) -> list[str]:
        """At most `count` distinct texts in a seeded order, so that any stretch of them is like the whole.

        Raises TextsError.
        """
        lines = read_lines(self.texts_file, field=self.field)
        if lines.tally.skipped:
            self.console.print(f"{self.texts_file}: {lines.tally}")
        distinct = list(dict.fromkeys(lines.texts))
        order = np.random.default_rng(SEED).permutation(len(distinct))
        return [distinct[place] for place in order[: self.count]]

    def finish(self, results: Sequence[Reported]) -> None:
        """Print results, and write them when a file was named."""
        for result in results:
            result.show(self.console)
        if self.json_file is not None:
            self.json_file.write_bytes(results_json(results))


Command = TypeVar("Command", bound=Callable[..., Any])

_TEXT_OPTIONS = (
    click.option(
        "--texts",
        "texts_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="One text a line, or .jsonl, or .tsv with a header; a small file of our own by default.",
    ),
    click.option("--field", default="text", show_default=True, help="JSONL field or TSV column of the text."),
    click.option(
        "--bundle",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_BUNDLE,
        show_default=True,
        help="Model bundle that the engine serves.",
    ),
)


def text_options(command: Command) -> Command:
    """The options of what is embedded, and by which model."""
    for option in reversed(_TEXT_OPTIONS):
        command = option(command)
    return command


def server_options(run: Callable[..., Sequence[Reported]]) -> Callable[..., Sequence[Reported]]:
    """Give a command the options of every benchmark as one Bench, and turn known faults into one line.

    The command returns its results too. One that is invoked by another may be given the `machine` as it was before.
    """

    @click.option("--core", type=int, help="Pin all servers to this core (best: 0).")
    @click.option("--generator-core", type=int, help="Pin the generator to this one (best: another, 1).")
    @click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Alternating rounds.")
    @text_options
    @click.option("--json", "json_file", type=OutputFile(), help="Write all rounds.")
    @functools.wraps(run)
    def command(machine: Machine | None = None, **options: Any) -> Sequence[Reported]:
        names = Bench.__dataclass_fields__.keys() - {"machine", "console"}
        common = {name: options.pop(name) for name in names & options.keys()}
        if machine is None:
            machine = describe(common["core"], common["generator_core"], common.get("generator", OWN_GENERATOR))
        bench = Bench(**common, machine=machine, console=wide_console())
        if bench.generator == WRK and not wrk_installed():
            raise click.ClickException("wrk is not installed: leave --generator out")
        try:
            results = run(bench, **options)
            bench.finish(results)
        except (BenchmarkError, TextsError) as error:
            raise click.ClickException(str(error)) from None
        return results

    return command


LOAD_OPTIONS = (
    click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.2), help="Of each round."),
    click.option(
        "--connections",
        default=32,
        show_default=True,
        type=click.IntRange(1, 1000),
        help="Connections that send single texts.",
    ),
    click.option("--count", default=2000, show_default=True, type=click.IntRange(1), help="Distinct texts used."),
    click.option(
        "--generator",
        type=click.Choice([OWN_GENERATOR, WRK]),
        default=OWN_GENERATOR,
        show_default=True,
        help="Ours checks the tier of every answer; wrk, where installed, is for cross-checking.",
    ),
)


def common_options(run: Callable[..., Sequence[Reported]]) -> Callable[..., Sequence[Reported]]:
    """`server_options`, and those of the benchmarks that put servers under load."""
    command = server_options(run)
    for option in reversed(LOAD_OPTIONS):
        command = option(command)
    return command
