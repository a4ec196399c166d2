"""The table of all aims: verdicts by kind of CPU, and what becomes of a benchmark that does not run."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtest.bench import aims as aims_module
from loadtest.bench import norepeat, products
from loadtest.bench.__main__ import bench
from loadtest.bench.aims import (
    AIMS,
    BENCHMARKS,
    ELSEWHERE,
    MISSED,
    NOT_MEASURED,
    OTHER_CPU,
    REACHED,
    Aim,
    AimsTable,
    Short,
    judge,
    measure,
)
from loadtest.bench.generator import Measurement
from loadtest.bench.machine import AVX2, OTHER, VNNI, Machine, describe, kind_of
from loadtest.bench.options import server_options
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.rounds import Contender, Difference, Outcome, Ratio, Reported, Result
from loadtest.figures import Spread, spread

RATE = Aim("one / other", "b", "make bench", at_least=0.9)
LATENCY = Aim("added", "b", "make bench", at_most=1.0, unit=" ms")


def a_machine(kind: str = AVX2, load: float = 0.1) -> Machine:
    """A machine of one kind of CPU."""
    machine = describe(0, 1, "own")
    return replace(machine, cpu="a CPU", kind=kind, int8_dot_products=kind == VNNI, load_before=load)


def measured(**figures: float) -> dict[str, dict[str, Spread]]:
    """One benchmark's figures, the same in all rounds."""
    return {"b": {name: spread([value]) for name, value in figures.items()}}


@pytest.mark.parametrize(
    ("aim", "value", "verdict"),
    [
        (RATE, 0.91, REACHED),
        (RATE, 0.9, REACHED),
        (RATE, 0.89, MISSED),
        (LATENCY, 0.4, REACHED),
        (LATENCY, 1.0, REACHED),
        (LATENCY, 1.1, MISSED),
    ],
)
def test_the_median_is_held_against_the_bound(aim: Aim, value: float, verdict: str) -> None:
    """The bound itself is reached; of several rounds the median counts."""
    assert judge(aim, measured(**{aim.figure: value}), a_machine()).verdict == verdict
    rounds = {"b": {aim.figure: spread([0.0, value, 9.0])}}
    assert judge(aim, rounds, a_machine()).verdict == verdict


def test_what_was_not_measured_is_named_so() -> None:
    """Neither a missing benchmark nor a missing figure passes for reached."""
    assert judge(RATE, {}, a_machine()).verdict == NOT_MEASURED
    assert judge(RATE, measured(other=1.0), a_machine()).verdict == NOT_MEASURED


@pytest.mark.parametrize(("kind", "verdict"), [(VNNI, MISSED), (AVX2, OTHER_CPU), (OTHER, OTHER_CPU)])
def test_an_aim_of_other_cpus_has_a_figure_and_no_verdict(kind: str, verdict: str) -> None:
    """It is judged with INT8 dot products alone."""
    judged = judge(replace(RATE, dot_products_only=True), measured(**{RATE.figure: 0.5}), a_machine(kind))
    assert judged.verdict == verdict
    assert judged.figure is not None


def test_what_another_command_tells_is_left_to_it() -> None:
    """An aim without a benchmark names its command."""
    judged = judge(Aim("first of all", "", "dejavec study"), {}, a_machine())
    assert judged.verdict == ELSEWHERE


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ({"avx2", "avx512_vnni"}, VNNI),
        ({"avx2", "avx_vnni"}, VNNI),
        ({"avx2", "avx512f"}, AVX2),
        ({"asimddp"}, "arm64 with dot products"),
        ({"sse2"}, OTHER),
        (set(), OTHER),
    ],
)
def test_kinds_of_cpu(flags: set[str], kind: str) -> None:
    """By the instructions that integer products need; AVX-512 alone has none."""
    assert kind_of(flags) == kind


def printed(table: AimsTable) -> str:
    """What is shown."""
    console = Console(file=io.StringIO(), width=200)
    table.show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_table(load: float = 0.1, faults: Mapping[str, str] | None = None) -> AimsTable:
    """One reached, one missed, one not measured, one for other CPUs, one of another command."""
    figures = measured(**{RATE.figure: 0.95, LATENCY.figure: 1.5, "products": 0.6})
    aims = (
        RATE,
        LATENCY,
        replace(RATE, figure="nowhere"),
        replace(RATE, figure="products", dot_products_only=True),
        Aim("first of all", "", "dejavec study"),
    )
    return AimsTable(a_machine(load=load), [judge(aim, figures, a_machine()) for aim in aims], faults or {})


def test_the_table_names_the_kind_and_shows_what_is_not_good_first() -> None:
    """Title with counts, missed above reached, each with bound, figure and command; a quiet machine has no warning."""
    shown = printed(a_table())
    assert "Aims on AVX2 (a CPU): 1 reached, 1 missed" in shown
    places = [shown.index(name) for name in ("added", "nowhere", "one / other", "products", "first of all")]
    assert places == sorted(places)
    line = next(line for line in shown.splitlines() if "added" in line)
    assert all(part in line for part in ("≤ 1 ms", "1.500 ms", MISSED, "make bench"))
    assert "NOT QUIET" not in shown


def test_a_busy_machine_and_faults_are_said_above_the_table() -> None:
    """As the study says it; a benchmark that did not run has its reason."""
    shown = printed(a_table(load=3.5, faults={"engine": "no model bundle"}))
    assert "NOT QUIET: load 3.5" in shown
    assert "engine did not run: no model bundle" in shown
    assert shown.index("NOT QUIET") < shown.index("one / other")


def test_the_table_is_data() -> None:
    """JSON has each aim with its bound, figure and verdict."""
    entry = orjson.loads(orjson.dumps(a_table().to_dict()))["aims"][1]
    assert (entry["verdict"], entry["bound"], entry["figure"]["median"]) == (MISSED, "≤ 1 ms", 1.5)


def test_every_aim_is_one_that_a_benchmark_gives() -> None:
    """No aim twice; each has a bound, a benchmark that is run, and a command of ours; the ones promised are there."""
    bounds = {aim.figure: aim.bound for aim in AIMS}
    assert len(bounds) == len(AIMS)
    for aim in AIMS:
        assert aim.benchmark in BENCHMARKS if aim.bound else aim.command.startswith("dejavec study")
        assert aim.benchmark in aim.command
    assert bounds["L0 hits / bare ASGI echo"] == "≥ 0.45"
    assert bounds["Redis hits / bare ASGI echo"] == "≥ 0.3"
    assert bounds["gateway singles / engine singles"] == "≥ 0.9"
    assert bounds["engine singles / bare graph"] == "≥ 0.9"
    assert bounds["added by the gateway to the engine, p50"] == "≤ 1 ms"
    assert bounds["CPU of auto / cache off, 32 in a request, 1 at a time"] == "≤ 1.03"
    assert bounds["CPU of auto / cache off, 1 in a request, 16 at a time"] == "≤ 1.1"
    products = [aim for aim in AIMS if aim.benchmark == "products"]
    assert [aim.bound for aim in products] == ["≥ 0.7"] * 4
    assert all(aim.dot_products_only for aim in products)


class Figures:
    """Results of a benchmark that have these figures and show nothing."""

    def __init__(self, figures: Mapping[str, float]) -> None:
        self._figures = figures

    def show(self, console: Console) -> None:
        """Nothing."""

    def to_dict(self) -> dict[str, object]:
        """As they are."""
        return dict(self._figures)

    def spreads(self) -> Mapping[str, Spread]:
        """Each the same in all rounds."""
        return {name: spread([value]) for name, value in self._figures.items()}


def test_a_benchmark_that_fails_leaves_the_others() -> None:
    """Its aims are not measured and its reason is kept."""

    def run(one: Short) -> Sequence[Reported]:
        if one is BENCHMARKS["engine"]:
            raise click.ClickException("no Redis")
        return [Figures({"L0 hits / bare ASGI echo": 0.5}), Figures({"Redis hits / bare ASGI echo": 0.2})]

    table, results = measure(a_machine(), run)
    verdicts = {one.aim.figure: one.verdict for one in table.judged}
    assert verdicts["L0 hits / bare ASGI echo"] == REACHED
    assert verdicts["Redis hits / bare ASGI echo"] == MISSED
    assert verdicts["engine singles / bare graph"] == NOT_MEASURED
    assert table.faults == {"engine": "no Redis"}
    assert "engine" not in results


def a_benchmark(name: str, figures: Mapping[str, float] | None) -> Short:
    """A command with a benchmark's options, which gives these figures or fails."""

    @click.command(name)
    @server_options
    def command(bench: object) -> Sequence[Reported]:
        if figures is None:
            raise BenchmarkError("no Redis server found")
        return [Figures(figures)]

    return Short(command, {})


def test_the_command_ends_in_the_table_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options without a command are those of `aims`; a missed aim is no fault, a benchmark that did not run is one."""
    path = tmp_path / "aims.json"
    figures = {"L0 hits / bare ASGI echo": 0.1}
    monkeypatch.setattr(aims_module, "BENCHMARKS", {"gateway": a_benchmark("gateway", figures)})
    done = CliRunner().invoke(bench, ["--rounds", "1", "--json", str(path)])
    assert done.exit_code == 0, done.output
    assert "0 reached, 1 missed" in done.output
    written = orjson.loads(path.read_bytes())
    assert written["results"]["gateway"] == [figures]
    assert {one["verdict"] for one in written["aims"]} >= {MISSED, NOT_MEASURED, ELSEWHERE}

    monkeypatch.setattr(aims_module, "BENCHMARKS", {"gateway": a_benchmark("gateway", None)})
    done = CliRunner().invoke(bench, [])
    assert done.exit_code == 1
    assert "gateway did not run: no Redis server found" in done.output


def test_figures_have_the_names_that_aims_ask_for() -> None:
    """What `norepeat` and `products` compare has the names of their aims; so no aim can stay unmeasured unseen."""
    turns = [norepeat.Turn({"gateway": 0.1, "engine": 0.9}, {"miss": 100})]
    names: set[str] = set()
    for load in (norepeat.BATCHED, norepeat.SINGLE):
        contenders = dict.fromkeys((norepeat.AUTO, norepeat.SEMANTIC_OFF, norepeat.CACHE_OFF), turns)
        names |= norepeat.CpuResult("title", a_machine(), contenders, load).spreads().keys()
    assert norepeat.MOST_ADDED.keys() <= names
    measured_names = {name for shape in (*products.FULL, *products.ALONE) for name in (shape.whole, shape.products)}
    assert {name for ratio in products.RATIOS for name in (ratio.above, ratio.below)} <= measured_names


def test_results_are_data_by_name() -> None:
    """Ratios and differences of one result, each under its name."""
    rounds = {"a": Measurement(200, 1.0, 2.0), "b": Measurement(100, 3.0, 4.0)}

    def contender(name: str) -> Contender:
        return Contender(name, lambda: rounds[name])

    outcomes = {name: Outcome(contender(name), [one]) for name, one in rounds.items()}
    result = Result("t", a_machine(), outcomes, [Ratio("a / b", "a", "b")], [Difference("b - a", "b", "a")])
    assert {name: figure.median for name, figure in result.spreads().items()} == {"a / b": 2.0, "b - a": 2.0}
