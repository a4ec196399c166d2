"""What `caches` ends with: figures and facts of each cache, as tables and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from loadtest.bench.machine import Machine
from loadtest.bench.rounds import figures_table
from loadtest.figures import Spread

FACTS = ("exact", "threads", "near", "repeated", "at once", "regrouped", "other model", "without Redis")


@dataclass(frozen=True, slots=True)
class Round:
    """Texts that were looked up, and the seconds that took: CPU of the client, its server, Redis; and wall."""

    texts: int
    client_s: float
    server_s: float
    redis_s: float
    wall_s: float

    @property
    def used_s(self) -> float:
        """CPU time of all together."""
        return max(self.client_s + self.server_s + self.redis_s, 1e-9)


@dataclass
class Measured:
    """Of one cache: its rounds, what an entry takes in Redis, whether it runs out, and facts by name."""

    name: str
    packages: Mapping[str, str]
    singles: list[Round] = field(default_factory=list)
    batches: list[Round] = field(default_factory=list)
    bytes_a_text: float | None = None
    has_ttl: bool | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CacheResult:
    """All caches of one run."""

    title: str
    machine: Machine
    caches: Sequence[Measured]
    left_out: Mapping[str, str]

    def show(self, console: Console) -> None:
        """Print machine, figures, facts and what was left out."""
        console.print(f"\n[bold]{escape(self.title)}[/]\n{escape(str(self.machine))}", soft_wrap=True)
        table = figures_table(("", "hits/s, single", "best", "µs client", "server", "Redis", "hits/s, 32", "best", ""))
        for one in self.caches:
            packages = ", ".join(f"{name} {number}" for name, number in one.packages.items())
            table.add_row(escape(one.name), *speeds(one), escape(packages))
        console.print(table)
        facts = figures_table(("", "bytes in Redis", "runs out", *FACTS))
        for one in self.caches:
            size = "-" if one.bytes_a_text is None else f"{one.bytes_a_text:,.0f}"
            runs_out = "-" if one.has_ttl is None else str(one.has_ttl).lower()
            facts.add_row(escape(one.name), size, runs_out, *(escape(fact(one.facts.get(name))) for name in FACTS))
        console.print(facts)
        for name, reason in self.left_out.items():
            console.print(f"left out: {escape(name)}: {escape(reason)}")

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return asdict(self)

    def spreads(self) -> Mapping[str, Spread]:
        """Nothing: no aim is judged by other caches."""
        return {}


def rate(rounds: Sequence[Round]) -> list[float]:
    """Hits a second of one core, round by round."""
    return [one.texts / one.used_s for one in rounds]


def speeds(one: Measured) -> list[str]:
    """Median and best of both batch sizes, and where a single hit's microseconds went."""
    single, batch = rate(one.singles), rate(one.batches)
    parts = [
        statistics.median(getattr(taken, part) / taken.texts for taken in one.singles) * 1e6
        for part in ("client_s", "server_s", "redis_s")
    ]
    return [
        f"{statistics.median(single):,.0f}",
        f"{max(single):,.0f}",
        *(f"{part:,.0f}" for part in parts),
        f"{statistics.median(batch):,.0f}",
        f"{max(batch):,.0f}",
    ]


def fact(answer: Any) -> str:
    """An answer of the worker's in a few characters."""
    if not isinstance(answer, dict):
        return "-" if answer is None else str(answer)
    if "error" in answer:
        return str(answer["error"]).partition(":")[0][:40]
    parts = [f"{answer['exact']:.0%} exact"] if "exact" in answer else []
    parts += [f"cosine {answer['cosine']:.4f}"] if answer.get("exact", 1) < 1 and "cosine" in answer else []
    parts += [f"{answer['embedded']} embedded"] if answer.get("embedded") is not None else []
    return ", ".join(parts)
