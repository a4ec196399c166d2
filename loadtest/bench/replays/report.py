"""What replayed streams gave: figures, what was worse than without a cache, and all of it as Markdown."""

import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import orjson
from rich.console import Console
from rich.markup import escape

from loadtest.bench.machine import Machine
from loadtest.bench.rounds import figures_table
from loadtest.figures import Latencies
from loadtest.tiers import HITS, MISS
from loadtest.verify import TierVerdict, Verification

MARKER: Final = "replays"  # in a document, between <!-- replays --> and <!-- /replays -->
WITHOUT, EXACT = "cache off", "exact only"
WORSE: Final = 1.02  # times the CPU: less than that is not told from noise
LINE: Final = 120  # characters of a line in a document
SLOWER: Final = 1.10  # times the latency
HEAD: Final = (
    "stream",
    "setting",
    "CPU ms a text",
    "of cache off",
    "texts/s",
    "p50 ms",
    "p99 ms",
    *HITS,
    "computed",
    "violations of checked",
    "lowest cosine",
)


@dataclass(frozen=True, slots=True)
class Pass:
    """A stream sent once: CPU seconds by process, texts by tier, latencies of requests, failures by kind."""

    cpu_s: Mapping[str, float]
    tiers: Mapping[str, int]
    wall_s: float
    latency: Latencies
    failed: Mapping[str, int]
    verification: Verification | None = None

    @property
    def texts(self) -> int:
        """How many were answered."""
        return sum(self.tiers.values())


@dataclass(frozen=True, slots=True)
class Replayed:
    """One stream in one setting; figures are medians over the passes, counts are sums."""

    stream: str
    setting: str
    texts: int
    size: int
    at_once: int
    repeat_share: float
    passes: Sequence[Pass]

    def median(self, figure: Callable[[Pass], float]) -> float:
        """Of one figure over the passes."""
        return statistics.median(map(figure, self.passes))

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of all processes a text."""
        return self.median(lambda one: 1000 * sum(one.cpu_s.values()) / one.texts)

    def process_ms(self, process: str) -> float:
        """One process's part of that."""
        return self.median(lambda one: 1000 * one.cpu_s.get(process, 0.0) / one.texts)

    @property
    def texts_per_s(self) -> float:
        """Texts answered a second of the clock."""
        return self.median(lambda one: one.texts / one.wall_s)

    @property
    def p50_ms(self) -> float:
        """Median latency of a request."""
        return self.median(lambda one: one.latency.p50_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the latency of a request."""
        return self.median(lambda one: one.latency.p99_ms)

    def share(self, tier: str) -> float:
        """Share of the texts that a tier answered."""
        return sum(one.tiers.get(tier, 0) for one in self.passes) / sum(one.texts for one in self.passes)

    @property
    def computed(self) -> float:
        """Texts of a pass that no tier had."""
        return self.median(lambda one: one.tiers.get(MISS, 0))

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return sum(sum(one.failed.values()) for one in self.passes)

    @property
    def checked(self) -> int:
        """Served vectors that were computed again."""
        return sum(one.verification.checked for one in self.passes if one.verification)

    @property
    def violations(self) -> int:
        """Those of them below the fidelity."""
        return sum(tier.below_fidelity for tier in self._verdicts())

    @property
    def lowest_cosine(self) -> float | None:
        """The lowest cosine similarity of a served vector to the recomputed one; None where none was checked."""
        return min((tier.lowest_cosine for tier in self._verdicts()), default=None)

    def _verdicts(self) -> list[TierVerdict]:
        return [tier for one in self.passes if one.verification for tier in one.verification.tiers.values()]


@dataclass(frozen=True, slots=True)
class Replays:
    """All streams in all settings, the machine, and how it was run."""

    date: str
    machine: Machine
    command: str
    fidelity: float
    verify_share: float
    replayed: Sequence[Replayed]

    def beside(self, one: Replayed, setting: str) -> Replayed:
        """The same stream in another setting."""
        return next(other for other in self.replayed if (other.stream, other.setting) == (one.stream, setting))

    def to_json(self) -> bytes:
        """Everything, passes and derived figures."""
        payload = asdict(self)
        for entry, one in zip(payload["replayed"], self.replayed, strict=True):
            entry["cpu_ms"], entry["of_cache_off"] = one.cpu_ms, one.cpu_ms / self.beside(one, WITHOUT).cpu_ms
            entry["shares"] = {tier: one.share(tier) for tier in (*HITS, MISS)}
            entry["violations"], entry["lowest_cosine"] = one.violations, one.lowest_cosine
        return orjson.dumps(payload | {"worse": list(worse(self))}, option=orjson.OPT_INDENT_2)

    def show(self, console: Console) -> None:
        """Print what is not good, then the table."""
        for line in worse(self):
            console.print(f"[bold]{escape(line)}[/]", soft_wrap=True)
        console.print(escape(str(self.machine)), soft_wrap=True)
        table = figures_table(HEAD)
        for row in rows(self):
            table.add_row(*map(escape, row))
        console.print(table)


def worse(replays: Replays) -> Iterator[str]:
    """What was not good, one line each: costs above those without a cache, violations, failures."""
    found = False
    for one in replays.replayed:
        for line in _worse(one, replays):
            found = True
            yield f"{one.stream}, {one.setting}: {line}"
    if not found:
        yield "No setting took more CPU or time than without a cache, nothing failed, no violation was found."


def _worse(one: Replayed, replays: Replays) -> Iterator[str]:
    if one.failed:
        yield f"{one.failed:,} requests failed; the CPU they took counts."
    if one.violations:
        yield f"{one.violations:,} of {one.checked:,} checked hits were below a cosine of {replays.fidelity:g}."
    for name in (WITHOUT, EXACT):
        if one.setting in (WITHOUT, name):
            continue
        other = replays.beside(one, name)
        if (ratio := one.cpu_ms / other.cpu_ms) > WORSE:
            yield f"{ratio:.2f} x the CPU of {name}."
        if name == WITHOUT and one.p99_ms > SLOWER * other.p99_ms:
            yield f"p99 {one.p99_ms:,.0f} ms against {other.p99_ms:,.0f} of {name}."
    if one.setting not in (WITHOUT, EXACT) and not one.share(HITS[-1]):
        yield f"no semantic hit in {one.texts:,} texts."


def rows(replays: Replays) -> list[list[str]]:
    """The table's cells, under HEAD."""
    return [
        [
            one.stream,
            one.setting,
            f"{one.cpu_ms:.2f}",
            f"{one.cpu_ms / replays.beside(one, WITHOUT).cpu_ms:.2f}",
            f"{one.texts_per_s:,.0f}",
            f"{one.p50_ms:,.1f}",
            f"{one.p99_ms:,.1f}",
            *(f"{one.share(tier):.1%}" for tier in HITS),
            f"{one.computed:,.0f}",
            f"{one.violations:,} of {one.checked:,}" if one.checked else "",
            "" if one.lowest_cosine is None else f"{one.lowest_cosine:.4f}",
        ]
        for one in replays.replayed
    ]


def markdown(replays: Replays, picture: str | None) -> str:
    """For a document: what is not good first, then how it was measured, the table, and the picture's link."""
    machine = replays.machine
    quiet = f" **{machine.warning}**" if machine.warning else ""
    lines = [
        *(f"- {line}" for line in worse(replays)),
        "",
        _wrapped(
            f"{replays.date}, {machine.cpu} ({machine.kind}), {machine.cores} cores, Python {machine.python}.{quiet}"
        ),
        "",
        f"    {replays.command}",
        "",
        _wrapped(_described(replays)),
        "",
        _row(HEAD),
        _row(["---"] * len(HEAD)),
        *map(_row, rows(replays)),
    ]
    if picture is not None:
        lines += ["", f"![CPU time a text, and which tier answered, by stream and setting]({picture})"]
    return "\n".join(lines)


def _described(replays: Replays) -> str:
    streams = {one.stream: one for one in replays.replayed}.values()
    sizes = "; ".join(
        f"{one.stream}: {one.texts:,} texts, {one.repeat_share:.0%} seen before, {one.size} a request, "
        f"{one.at_once} requests at a time"
        for one in streams
    )
    checked = "No hit was checked."
    if replays.verify_share:
        checked = (
            f"All semantic hits and {replays.verify_share:.0%} of the others were computed again; a violation is one "
            f"below a cosine of {replays.fidelity:g}."
        )
    return (
        f"{sizes}. A connection sends its next request when the last was answered; p50 and p99 are of requests. "
        f"CPU is that of gateway, engine and Redis, processes started anew for each line. {checked}"
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, LINE, break_long_words=False, break_on_hyphens=False)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
